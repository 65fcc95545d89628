"use strict";
// Plots in the page's colours: `--ink` is replaced by its present value in the style sheet.
const Figures = (() => {
  // removes Plotly's button that uploads a plot's data to plotly.com, and its address
  const config = {
    displaylogo: false, responsive: true, toImageButtonOptions: { format: "svg" },
    modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d", "sendChartToCloud"], showSendToCloud: false, plotlyServerURL: "",
  };
  const BELOW = 54; // pixels of ticks and title under an axis
  const color = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

  function coloured(source) {
    return JSON.parse(source, (_, value) => typeof value === "string" && value.startsWith("--") ? color(value) || value : value);
  }

  function layoutOf(own) {
    const ink = color("--ink"), grid = color("--grid"), line = color("--line"), paper = color("--surface");
    const axis = { gridcolor: grid, zerolinecolor: line, linecolor: line, automargin: true, ticks: "outside", tickcolor: line, title: { standoff: 8 } };
    const merged = (name) => ({ ...axis, ...own[name], title: { ...axis.title, ...(own[name] || {}).title } });
    return {
      height: 300, margin: { l: 52, r: 14, t: 10, b: 44 }, hovermode: "closest",
      paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: ink, size: 12, family: getComputedStyle(document.body).fontFamily },
      hoverlabel: { bgcolor: paper, bordercolor: line, font: { color: ink }, align: "left" },
      legend: { orientation: "h", x: 0, y: -BELOW / ((own.height || 300) - BELOW), yanchor: "top" },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: line, activecolor: ink },
      ...own, xaxis: merged("xaxis"), yaxis: merged("yaxis"),
    };
  }

  return { config, coloured, layoutOf };
})();
