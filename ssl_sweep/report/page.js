// Draws the plots; again when the colours change, and at the width of a sheet before printing.
(() => {
  const source = document.getElementById("plots").textContent;
  const SHEET_COLUMN = 320, SHEET = 660; // CSS pixels between the margins of A4 and Letter

  function draw(printing) {
    document.documentElement.toggleAttribute("data-printing", printing); // paper takes the light colours
    return Promise.all(Object.entries(Figures.coloured(source)).map(([id, plot]) => {
      const place = document.getElementById(id);
      const layout = Figures.layoutOf(plot.layout);
      if (printing) layout.width = place.closest("figure").matches(".wide, .single") ? SHEET : SHEET_COLUMN;
      return Plotly.react(place, plot.data, layout, Figures.config);
    }));
  }

  window.addEventListener("beforeprint", () => draw(true));
  window.addEventListener("afterprint", () => draw(false));
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => draw(false));
  draw(false).then(() => { document.documentElement.dataset.drawn = "true"; });
})();
