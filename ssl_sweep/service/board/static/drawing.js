"use strict";
// The plots of a page by section, drawn again when their data or the colours change; the zoom stays.
const Drawing = (() => {
  const { Source, add, byId } = Board;

  class Plots extends Source {
    take(body) { this.source = body; this.draw(); }

    draw() {
      if (!this.source) return;
      const told = Figures.coloured(this.source);
      const shown = new Set(told.plots.map((plot) => plot.section));
      for (const plot of told.plots) this.frame(plot);
      this.remove(told.plots);
      for (const plot of told.plots) { // after all places exist, so that widths are final
        Plotly.react(byId(plot.id), plot.data, Figures.layoutOf(plot.layout), Figures.config);
      }
      for (const node of document.querySelectorAll("[data-optional]")) node.hidden = !node.querySelector("figure");
      this.node.dispatchEvent(new CustomEvent("drawn", { bubbles: true, detail: told }));
      this.node.dataset.drawn = [...shown].join(" ");
    }

    frame(plot) { // the title and description of a plot
      const figure = byId(plot.id) ? byId(plot.id).closest("figure") : this.figure(plot), place = byId(plot.id);
      figure.querySelector("figcaption").textContent = plot.title;
      byId(`${plot.id}-alt`).textContent = plot.alt;
      place.style.height = `${plot.layout.height || 300}px`;
      place.style.minWidth = `${plot.min_width}px`;
      figure.classList.toggle("wide", plot.min_width > 0);
    }

    figure({ id, section }) { // a new empty one in its section
      const figure = document.createElement("figure");
      const caption = document.createElement("figcaption"), place = document.createElement("div"), alt = document.createElement("p");
      caption.id = `${id}-title`; place.id = id; alt.id = `${id}-alt`;
      place.className = "plot"; alt.className = "unseen";
      for (const [name, value] of [["role", "img"], ["aria-labelledby", caption.id], ["aria-describedby", alt.id]]) place.setAttribute(name, value);
      figure.append(caption, place, alt);
      const home = document.querySelector(`[data-section="${section}"]`);
      home.querySelector(".note")?.setAttribute("hidden", "");
      home.append(figure);
      (this.homes ||= new Set()).add(home);
      return figure;
    }

    remove(plots) { // plots that are gone
      const ids = new Set(plots.map((plot) => plot.id));
      for (const home of this.homes || []) {
        for (const place of home.querySelectorAll(".plot")) {
          if (!ids.has(place.id)) { Plotly.purge(place); place.closest("figure").remove(); }
        }
        if (!home.querySelector("figure")) home.querySelector(".note")?.removeAttribute("hidden");
      }
    }
  }

  function metrics({ detail, target }) { // the menu of measured metrics
    const select = document.querySelector(`[data-metrics="${target.id}"]`);
    if (!select || !detail.metrics) return;
    const known = [...select.options].map((option) => option.value);
    if (known.join("\n") !== detail.metrics.join("\n")) select.replaceChildren(...detail.metrics.map((name) => new Option(name, name)));
    if (document.activeElement !== select) select.value = detail.metric;
  }

  document.addEventListener("drawn", metrics);
  document.addEventListener("colours", () => { for (const each of Object.values(Board.sources)) if (each instanceof Plots) each.draw(); });
  for (const node of document.querySelectorAll("[data-plots]")) add(node.id, new Plots(node, node.dataset.plots, 1000 * node.dataset.every)).load();
})();
