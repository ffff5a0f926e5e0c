// The address holds the view and changes with every control. Streamlit makes each change a step of
// the browser's history, so Back would have to be pressed once per change, and would change
// nothing: the session keeps its view. So a change of the view replaces its address instead. Back
// leads to the previous page; Undo steps through designs.

const push = history.pushState

history.pushState = function (state, unused, url) {
  const target = new URL(url ?? location.href, location.href)
  const samePage = target.pathname === location.pathname
  return (samePage ? history.replaceState : push).call(history, state, unused, url)
}
