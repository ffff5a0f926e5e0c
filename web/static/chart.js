// A chart of the house: title, legend, plot, source, and buttons that save it. Plotly draws only the plot; words are text of the page, so
// that they wrap on a narrow screen. A change redraws what has changed and keeps the plot (Streamlit's own element builds it anew).

import { element, style } from "./dom.js"

const PLOTLY = new URL("plotly-cartesian-4.1.1.min.js", import.meta.url)
const CONFIG = { displaylogo: false, displayModeBar: false, doubleClick: "reset" }
const STYLE = `
.chart { font-family: var(--st-font); color: var(--st-text-color); margin: 0; contain: layout style }
.chart figcaption { font-weight: 600; font-size: 0.95rem; line-height: 1.3; overflow-wrap: anywhere }
.chart .legend { display: flex; flex-wrap: wrap; gap: 0 0.75rem; margin-top: 0.25rem }
.chart button { all: unset; cursor: pointer; font-size: 0.8rem; padding: 0.1rem 0; border-radius: 0.25rem; overflow-wrap: anywhere }
.chart button:hover { text-decoration: underline }
.chart button:focus-visible { outline: 2px solid var(--st-primary-color); outline-offset: 2px }
.chart button[aria-pressed=false] { text-decoration: line-through }
.chart button svg { vertical-align: middle; margin-right: 0.35rem }
.chart .plot { overflow: hidden; contain: content }
.chart .foot { display: flex; gap: 0.75rem; justify-content: space-between; align-items: baseline; font-size: 0.75rem; line-height: 1.35 }
.chart .foot p { margin: 0; overflow-wrap: anywhere; font-size: inherit !important }
.chart .foot span { display: flex; gap: 0.75rem; white-space: nowrap; color: var(--st-link-color) }
.chart .foot button { overflow-wrap: normal }
@media print { .chart .foot span { display: none } }`

let plotly // a promise of the library, which is fetched once, after the page's numbers stand
const waiting = new Set() // charts to draw
let drawing = false // whether somebody is at it

export default function ({ parentElement, data }) {
  const chart = (parentElement.chart ??= build(parentElement))
  chart.data = data
  chart.figure = data.figure
  chart.root.setAttribute("aria-label", data.told)
  chart.title.textContent = data.title
  chart.source.textContent = data.source
  legend(chart)
  chart.plot.style.minHeight = `${chart.figure.layout.height}px`
  later(chart)
  return () => {
    waiting.delete(chart)
    chart.resized.disconnect()
    if (chart.drawn) window.Plotly.purge(chart.plot)
  }
}

function build(parent) {
  style("chart", STYLE)
  const chart = { title: element("figcaption"), legend: element("div", { className: "legend" }), source: element("p") }
  chart.plot = element("div", { className: "plot" })
  chart.drawn = 0 // pixels of width
  const svg = element("button", { textContent: "SVG", title: "Save the chart as a picture", onclick: () => saveSvg(chart) })
  const csv = element("button", { textContent: "CSV", title: "Save the chart's data as a table", onclick: () => saveCsv(chart) })
  const [buttons, foot] = [element("span"), element("div", { className: "foot" })]
  buttons.append(svg, csv)
  foot.append(chart.source, buttons)
  chart.root = element("figure", { className: "chart" })
  chart.root.setAttribute("role", "figure")
  chart.root.append(chart.title, chart.legend, chart.plot, foot)
  parent.replaceChildren(chart.root)
  chart.resized = new ResizeObserver(() => chart.plot.clientWidth !== chart.drawn && later(chart))
  chart.resized.observe(chart.root)
  return chart
}

// Draw once the browser has shown what arrived with the charts: those in sight together, then the others one at a time, so that it can
// answer in between.
function later(chart) {
  chart.root.setAttribute("aria-busy", "true")
  waiting.add(chart)
  if (!drawing) requestAnimationFrame(() => setTimeout(drawWaiting))
  drawing = true
}

async function drawWaiting() {
  const library = await (plotly ??= load()).catch(error => error)
  const seen = [...waiting].filter(inSight)
  for (const chart of seen.length ? seen : [...waiting].slice(0, 1)) {
    waiting.delete(chart)
    if (chart.plot.clientWidth) await draw(library, chart).catch(error => (chart.plot.textContent = `This chart cannot be drawn. ${error.message}`))
    chart.root.setAttribute("aria-busy", String(waiting.has(chart)))
  }
  drawing = waiting.size > 0
  if (drawing) setTimeout(drawWaiting)
}

function inSight(chart) {
  const box = chart.root.getBoundingClientRect()
  return box.bottom > 0 && box.top < innerHeight
}

function load() {
  return new Promise((resolve, reject) => {
    const script = element("script", { src: PLOTLY, onload: () => resolve(window.Plotly) })
    script.onerror = () => {
      plotly = undefined // the next chart tries again
      reject(new Error("The library of charts did not load: is the server still there?"))
    }
    document.head.append(script)
  })
}

async function draw(library, chart) {
  if (library instanceof Error) throw library
  const { data, layout } = chart.figure
  const width = chart.plot.clientWidth
  const hidden = data.map(trace => ({ ...trace, visible: !chart.hidden?.has(group(trace)) }))
  await library.react(chart.plot, hidden, { ...themed(layout, chart.root), width, showlegend: false }, CONFIG)
  chart.drawn = width
}

// The page's colours and letters; a chart has only the colours that mean something.
function themed(layout, root) {
  const of = name => getComputedStyle(root).getPropertyValue(name).trim()
  const [ink, faint] = [of("--st-text-color"), of("--st-border-color-light") || of("--st-border-color")]
  const axis = { gridcolor: faint, zerolinecolor: faint, automargin: true, ticklabeloverflow: "allow" }
  const clear = "rgba(0,0,0,0)"
  const base = { font: { family: of("--st-font"), color: ink, size: 12 }, paper_bgcolor: clear, plot_bgcolor: clear, dragmode: touch() ? false : "zoom" }
  const names = (layout.annotations ?? []).map(name => ({ bgcolor: of("--st-background-color"), borderpad: 0, ...name })) // on no line
  return { ...layout, annotations: names, template: { layout: { ...base, xaxis: axis, yaxis: axis } } }
}

const touch = () => matchMedia("(pointer: coarse)").matches

const group = trace => trace.legendgroup ?? trace.name

const named = ({ data, layout }) => data.filter(trace => trace.name && trace.showlegend !== false && layout.showlegend !== false)

// A button per name that hides and shows what it names; one name needs no legend.
function legend(chart) {
  const traces = named(chart.figure)
  const buttons = traces.length < 2 ? [] : traces.map(trace => {
    const button = element("button", { onclick: () => toggle(chart, group(trace)), title: "Hide or show" })
    button.setAttribute("aria-pressed", String(!chart.hidden?.has(group(trace))))
    button.innerHTML = swatch(trace)
    button.append(plain(trace.name))
    return button
  })
  chart.legend.replaceChildren(...buttons)
}

function toggle(chart, name) {
  chart.hidden ??= new Set()
  if (!chart.hidden.delete(name)) chart.hidden.add(name)
  legend(chart)
  later(chart)
}

function swatch({ mode = "lines+markers", line = {}, marker = {} }) {
  const colour = [line.color, marker.color].find(value => /^#[0-9a-f]{6}$/i.test(value)) ?? "currentColor"
  const dashes = { dot: "2 3", dash: "6 3" }[line.dash] ?? ""
  const stroke = mode.includes("lines") ? `<path d="M0 5H22" stroke="${colour}" stroke-width="2.5" stroke-dasharray="${dashes}"/>` : ""
  const shape = { x: "M7 1L15 9M15 1L7 9", "diamond-open": "M11 1L15 5L11 9L7 5Z" }[marker.symbol] ?? "M8 5a3 3 0 1 0 6 0a3 3 0 1 0 -6 0"
  const filled = marker.symbol ? `fill="none" stroke="${colour}" stroke-width="2"` : `fill="${colour}"`
  const point = mode.includes("markers") ? `<path d="${shape}" ${filled}/>` : ""
  return `<svg width="22" height="10" aria-hidden="true">${stroke}${point}</svg>`
}

// Plotly's own markup in names: what the server escaped, as it was written.
function plain(name) {
  return new DOMParser().parseFromString(name.replace(/<br>/g, " "), "text/html").body.textContent
}

// The picture has its words inside it, since it leaves the page.
async function saveSvg(chart) {
  const { data, layout } = chart.figure
  const [wide, rows] = [Math.max(480, chart.plot.clientWidth), named(chart.figure).length]
  const [title, source] = [wrap(chart.data.title, wide / 8.5), wrap(chart.data.source, wide / 6)]
  const [above, below] = [24 + 18 * title.length + (rows > 1 ? 20 * Math.ceil(rows / 2) : 0), 12 + 14 * source.length]
  const [m, look] = [layout.margin, themed(layout, chart.root)]
  const words = [
    { text: `<b>${title.join("<br>")}</b>`, y: 1, yanchor: "top", yshift: m.t + above - 6, font: { size: 15 } },
    { text: source.join("<br>"), y: 0, yanchor: "bottom", yshift: -m.b - below + 6, font: { size: 11 } },
  ].map(word => ({ ...word, x: 0, xanchor: "left", xref: "paper", yref: "paper", xshift: 8 - m.l, align: "left", showarrow: false }))
  const height = layout.height + above + below
  const whole = {
    ...look,
    paper_bgcolor: getComputedStyle(chart.root).getPropertyValue("--st-background-color"),
    annotations: [...look.annotations, ...words],
    margin: { ...m, t: m.t + above, b: m.b + below },
    width: wide,
    height,
    showlegend: rows > 1,
  }
  const library = await (plotly ??= load())
  save(decodeURIComponent((await library.toImage({ data, layout: whole }, { format: "svg", width: wide, height })).split(",").slice(1).join(",")), `${chart.data.name}.svg`, "image/svg+xml")
}

function wrap(text, room) {
  const lines = [""]
  for (const word of text.split(" ")) {
    if ((lines.at(-1) + word).length > room && lines.at(-1)) lines.push("")
    lines.push(`${lines.pop()} ${word}`.trim())
  }
  return lines.map(line => line.replace(/&/g, "&amp;").replace(/</g, "&lt;"))
}

function saveCsv(chart) {
  save(chart.data.csv, `${chart.data.name}.csv`, "text/csv")
}

function save(text, name, type) {
  const link = element("a", { href: URL.createObjectURL(new Blob([text], { type })), download: name })
  link.click()
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000)
}
