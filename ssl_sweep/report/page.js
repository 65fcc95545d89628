"use strict";
// Draws the plots in the page's own colours: again when these change, and in the width of a sheet before it is printed.
(() => {
  const source = document.getElementById("plots").textContent;
  const config = { displaylogo: false, responsive: true, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"], toImageButtonOptions: { format: "svg" } };
  const SHEET_COLUMN = 320, SHEET = 660; // CSS pixels between the margins of A4 and Letter
  const BELOW = 54; // pixels of ticks and title under an axis

  // `--ink` stands for the colour that the style sheet gives it now
  function coloured() {
    const style = getComputedStyle(document.documentElement);
    return JSON.parse(source, (_, value) =>
      typeof value === "string" && value.startsWith("--") ? style.getPropertyValue(value).trim() || value : value);
  }

  function layoutOf(own) {
    const style = getComputedStyle(document.documentElement);
    const ink = style.getPropertyValue("--ink").trim(), grid = style.getPropertyValue("--grid").trim();
    const line = style.getPropertyValue("--line").trim(), paper = style.getPropertyValue("--surface").trim();
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

  function draw(printing) {
    document.documentElement.toggleAttribute("data-printing", printing); // on paper the colours are the light ones
    const plots = coloured();
    return Promise.all(Object.entries(plots).map(([id, plot]) => {
      const place = document.getElementById(id);
      const layout = layoutOf(plot.layout);
      if (printing) layout.width = place.closest("figure").matches(".wide, .single") ? SHEET : SHEET_COLUMN;
      return Plotly.react(place, plot.data, layout, config);
    }));
  }

  window.addEventListener("beforeprint", () => draw(true));
  window.addEventListener("afterprint", () => draw(false));
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw(false));
  draw(false).then(() => { document.documentElement.dataset.drawn = "true"; });
})();
