// A chart: title, legend, plot, source, and buttons that save it. Plotly draws only the plot. The
// text belongs to the page, so it wraps on a narrow screen. A change redraws only what has changed
// and keeps the plot; Streamlit's own element would rebuild it.

import { element, style } from "./dom.js"

const PLOTLY = new URL("plotly-cartesian-4.1.1.min.js", import.meta.url)
const CLEAR = "rgba(0,0,0,0)"
const CONFIG = { displaylogo: false, displayModeBar: false, doubleClick: "reset" }
const STYLE = `
.chart { font-family: var(--st-font); color: var(--st-text-color); margin: 0; contain: layout style }
.chart figcaption { font-weight: 600; font-size: 0.95rem; line-height: 1.3; overflow-wrap: anywhere }
.chart .legend { display: flex; flex-wrap: wrap; gap: 0 0.75rem; margin-top: 0.25rem }
.chart button {
  all: unset; cursor: pointer; font-size: 0.8rem; padding: 0.1rem 0; border-radius: 0.25rem;
  overflow-wrap: anywhere;
}
.chart button:hover { text-decoration: underline }
.chart button:focus-visible { outline: 2px solid var(--st-primary-color); outline-offset: 2px }
.chart button[aria-pressed=false] { text-decoration: line-through }
.chart button svg { vertical-align: middle; margin-right: 0.35rem }
.chart .plot { overflow: hidden; contain: content }
.chart .foot {
  display: flex; gap: 0.75rem; justify-content: space-between; align-items: baseline;
  font-size: 0.75rem; line-height: 1.35;
}
.chart .foot p { margin: 0; overflow-wrap: anywhere; font-size: inherit !important }
.chart .foot span { display: flex; gap: 0.75rem; white-space: nowrap; color: var(--st-link-color) }
.chart .foot button { overflow-wrap: normal }
@media print { .chart .foot span { display: none } }`

let plotly // a promise of the library, which is fetched once, after the page's numbers are shown
const waiting = new Set() // charts to draw
let drawing = false // whether drawWaiting runs or is about to

export default function ({ parentElement, data }) {
  const chart = (parentElement.chart ??= build(parentElement))
  chart.data = data
  chart.figure = data.figure
  chart.root.setAttribute("aria-label", data.told)
  chart.title.textContent = data.title
  chart.source.textContent = data.source
  showLegend(chart)
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
  const chart = {
    root: element("figure", { className: "chart" }),
    title: element("figcaption"),
    legend: element("div", { className: "legend" }),
    plot: element("div", { className: "plot" }),
    source: element("p"),
    drawn: 0, // the width in pixels that the plot was drawn for
  }
  const foot = element("div", { className: "foot" })
  foot.append(chart.source, saveButtons(chart))
  chart.root.setAttribute("role", "figure")
  chart.root.append(chart.title, chart.legend, chart.plot, foot)
  parent.replaceChildren(chart.root)
  chart.resized = new ResizeObserver(() => {
    if (chart.plot.clientWidth !== chart.drawn) later(chart)
  })
  chart.resized.observe(chart.root)
  return chart
}

function saveButtons(chart) {
  const buttons = element("span")
  const asPicture = element("button", { textContent: "SVG", title: "Save the chart as a picture" })
  const asTable = element("button", { textContent: "CSV", title: "Save the chart's data as a table" })
  asPicture.onclick = () => saveSvg(chart)
  asTable.onclick = () => saveCsv(chart)
  buttons.append(asPicture, asTable)
  return buttons
}

// Draw a chart once the browser has shown what arrived with it.
function later(chart) {
  chart.root.setAttribute("aria-busy", "true")
  waiting.add(chart)
  if (!drawing) requestAnimationFrame(() => setTimeout(drawWaiting))
  drawing = true
}

// Draw the charts in sight together, then the others one at a time, so that the browser can answer
// in between.
async function drawWaiting() {
  const library = await (plotly ??= load()).catch(error => error)
  const seen = [...waiting].filter(inSight)
  const next = seen.length ? seen : [...waiting].slice(0, 1)
  for (const chart of next) {
    waiting.delete(chart)
    // A hidden chart has no width. It is drawn when it gets one.
    if (chart.plot.clientWidth) {
      await draw(library, chart).catch(error => {
        chart.plot.textContent = `This chart cannot be drawn. ${error.message}`
      })
    }
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
      reject(new Error("The chart library did not load: is the server still running?"))
    }
    document.head.append(script)
  })
}

async function draw(library, chart) {
  if (library instanceof Error) throw library
  const { data, layout } = chart.figure
  const width = chart.plot.clientWidth
  const traces = data.map(trace => ({ ...trace, visible: !chart.hidden?.has(group(trace)) }))
  const look = { ...themed(layout, chart.root), width, showlegend: false }
  await library.react(chart.plot, traces, look, CONFIG)
  chart.drawn = width
}

// A layout in the page's colours and font. The chart itself sets only colours that carry meaning.
function themed(layout, root) {
  const ofPage = name => getComputedStyle(root).getPropertyValue(name).trim()
  const faint = ofPage("--st-border-color-light") || ofPage("--st-border-color")
  const axis = { gridcolor: faint, zerolinecolor: faint, automargin: true, ticklabeloverflow: "allow" }
  const base = {
    font: { family: ofPage("--st-font"), color: ofPage("--st-text-color"), size: 12 },
    paper_bgcolor: CLEAR,
    plot_bgcolor: CLEAR,
    dragmode: touch() ? false : "zoom",
  }
  // Names next to lines have a background, so that no other line crosses them.
  const behind = { bgcolor: ofPage("--st-background-color"), borderpad: 0 }
  const annotations = (layout.annotations ?? []).map(name => ({ ...behind, ...name }))
  return { ...layout, annotations, template: { layout: { ...base, xaxis: axis, yaxis: axis } } }
}

const touch = () => matchMedia("(pointer: coarse)").matches

const group = trace => trace.legendgroup ?? trace.name

// The traces that the legend names.
function named({ data, layout }) {
  if (layout.showlegend === false) return []
  return data.filter(trace => trace.name && trace.showlegend !== false)
}

// A button per name, which hides and shows what it names. A single name needs no legend.
function showLegend(chart) {
  const traces = named(chart.figure)
  const buttons = traces.length < 2 ? [] : traces.map(trace => legendButton(chart, trace))
  chart.legend.replaceChildren(...buttons)
}

function legendButton(chart, trace) {
  const name = group(trace)
  const button = element("button", { onclick: () => toggle(chart, name), title: "Hide or show" })
  button.setAttribute("aria-pressed", String(!chart.hidden?.has(name)))
  button.innerHTML = swatch(trace)
  button.append(plain(trace.name))
  return button
}

function toggle(chart, name) {
  chart.hidden ??= new Set()
  if (!chart.hidden.delete(name)) chart.hidden.add(name)
  showLegend(chart)
  later(chart)
}

// The line and the marker of a trace.
function swatch({ mode = "lines+markers", line = {}, marker = {} }) {
  const isColour = value => /^#[0-9a-f]{6}$/i.test(value)
  const colour = [line.color, marker.color].find(isColour) ?? "currentColor"
  return `<svg width="22" height="10" aria-hidden="true">
    ${mode.includes("lines") ? swatchLine(colour, line.dash) : ""}
    ${mode.includes("markers") ? swatchMarker(colour, marker.symbol) : ""}
  </svg>`
}

function swatchLine(colour, dash) {
  const dashes = { dot: "2 3", dash: "6 3" }[dash] ?? ""
  return `<path d="M0 5H22" stroke="${colour}" stroke-width="2.5" stroke-dasharray="${dashes}"/>`
}

function swatchMarker(colour, symbol) {
  const filledCircle = "M8 5a3 3 0 1 0 6 0a3 3 0 1 0 -6 0"
  const shape = { x: "M7 1L15 9M15 1L7 9", "diamond-open": "M11 1L15 5L11 9L7 5Z" }[symbol] ?? filledCircle
  const paint = symbol ? `fill="none" stroke="${colour}" stroke-width="2"` : `fill="${colour}"`
  return `<path d="${shape}" ${paint}/>`
}

// A trace's name without Plotly's markup, and with the server's escapes undone.
function plain(name) {
  return new DOMParser().parseFromString(name.replace(/<br>/g, " "), "text/html").body.textContent
}

// The saved picture leaves the page, so it contains its title, legend and source.
async function saveSvg(chart) {
  const { data, layout } = chart.figure
  const width = Math.max(480, chart.plot.clientWidth)
  const title = wrap(chart.data.title, width / 8.5) // 8.5 pixels per letter
  const source = wrap(chart.data.source, width / 6)
  const names = named(chart.figure).length
  const legendHeight = names > 1 ? 20 * Math.ceil(names / 2) : 0
  const above = 24 + 18 * title.length + legendHeight
  const below = 12 + 14 * source.length
  const { margin } = layout
  const height = layout.height + above + below
  const look = themed(layout, chart.root)
  const left = {
    x: 0, xanchor: "left", xshift: 8 - margin.l, align: "left",
    xref: "paper", yref: "paper", showarrow: false,
  }
  const titleText = {
    ...left, text: `<b>${title.join("<br>")}</b>`, font: { size: 15 },
    y: 1, yanchor: "top", yshift: margin.t + above - 6,
  }
  const sourceText = {
    ...left, text: source.join("<br>"), font: { size: 11 },
    y: 0, yanchor: "bottom", yshift: -margin.b - below + 6,
  }
  const whole = {
    ...look,
    paper_bgcolor: getComputedStyle(chart.root).getPropertyValue("--st-background-color"),
    annotations: [...look.annotations, titleText, sourceText],
    margin: { ...margin, t: margin.t + above, b: margin.b + below },
    width,
    height,
    showlegend: names > 1,
  }
  const library = await (plotly ??= load())
  const address = await library.toImage({ data, layout: whole }, { format: "svg", width, height })
  const svg = decodeURIComponent(address.slice(address.indexOf(",") + 1))
  save(svg, `${chart.data.name}.svg`, "image/svg+xml")
}

// The lines of a text, of `room` letters at most unless a word is longer, escaped for SVG.
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
