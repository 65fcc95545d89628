"use strict";
// A sweep's page: draws the learning curves of trials that are selected in the table; one metric for plots and table.
(() => {
  const MOST = 20;
  const { ask, byId, say, sources } = Board;
  const chosen = new Set();

  function mark() { // the selected rows of this page of the table
    for (const input of document.querySelectorAll("[data-choose]")) {
      input.checked = chosen.has(input.value);
      input.disabled = !input.checked && chosen.size >= MOST;
      input.closest("tr").classList.toggle("chosen", input.checked);
    }
  }

  function draw() {
    mark();
    const count = chosen.size;
    byId("chosen").textContent = count ? `Of ${count} selected ${count === 1 ? "trial" : "trials"}${count === MOST ? ", which is the maximum" : ""}.` : "Of the best trials; select others in the table.";
    byId("unchoose").hidden = !count;
    say(byId("chosen").textContent);
    sources.curves.ask({ trial: [...chosen] });
  }

  document.addEventListener("change", ({ target }) => {
    if (!target.matches("[data-choose]")) return;
    if (target.checked) chosen.add(target.value); else chosen.delete(target.value);
    draw();
  });
  byId("unchoose").onclick = () => { chosen.clear(); draw(); byId("curves-title").focus(); };
  byId("trials").addEventListener("taken", mark);
  byId("drawn").addEventListener("drawn", ({ detail }) => {
    const best = byId("best");
    best.hidden = !detail.best;
    if (!detail.best) return;
    best.querySelector("b").textContent = detail.best.knobs;
    best.querySelector(".figure").textContent = detail.best.figure;
  });
  document.querySelector('[data-metrics="drawn"]').addEventListener("change", ({ target }) => ask("trials", { metric: target.value }));
})();
