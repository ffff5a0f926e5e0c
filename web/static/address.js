// The address holds the view and changes with every control, and Streamlit makes each a step of the browser's history: Back would have to be
// pressed once a change, and would change nothing, since the session's view stands. A change of the view replaces its address instead, so
// that Back leads to the page before; Undo steps through designs.

const push = history.pushState

history.pushState = function (state, unused, url) {
  const samePage = new URL(url ?? location.href, location.href).pathname === location.pathname
  return (samePage ? history.replaceState : push).call(history, state, unused, url)
}
