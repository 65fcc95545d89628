"use strict";
// Shared by all pages of the board: parts that are polled, and buttons that change a sweep.
const Board = (() => {
  const BY_BOARD = { "X-Board": "1" }; // a page of another site cannot send it
  const LONGEST_MS = 60_000;
  const byId = (id) => document.getElementById(id);
  const say = (text) => { byId("status").textContent = text; };
  const show = (node, text) => { node.textContent = text; node.hidden = !text; };

  async function wrong(answer) {
    if (answer.status === 401) return "You are signed out. Load the page again to sign in.";
    const told = await answer.json().catch(() => null);
    return (told && told.message) || `the service answers ${answer.status}`;
  }

  // Polls an address while the page is visible, and passes new content on.
  class Source {
    constructor(node, address, every) {
      this.node = node; this.address = address; this.every = every; this.query = {}; this.misses = 0; this.turn = 0;
      this.trouble = document.createElement("p");
      this.trouble.className = "trouble"; this.trouble.setAttribute("role", "alert"); this.trouble.hidden = true;
      const title = node.querySelector(":scope > .title");
      if (title) title.after(this.trouble); else node.before(this.trouble);
      document.addEventListener("visibilitychange", () => { if (!document.hidden && this.every) this.load(); });
    }
    url() {
      const url = new URL(this.address, location.href);
      for (const [key, value] of Object.entries(this.query)) {
        for (const each of [value].flat()) if (each !== "") url.searchParams.append(key, each);
      }
      return url;
    }
    async fetched() {
      try {
        const answer = await fetch(this.url(), { headers: this.tag ? { "If-None-Match": this.tag } : {} });
        const is_good = answer.status === 200 || answer.status === 304;
        return { answer, body: is_good ? await answer.text() : "", trouble: is_good ? "" : await wrong(answer) };
      } catch { return { trouble: "The service does not answer; trying again." }; }
    }
    ask(query) { Object.assign(this.query, query); this.tag = null; return this.load(); }
    async load() {
      clearTimeout(this.timer);
      const turn = ++this.turn;
      const { answer, body, trouble } = await this.fetched();
      if (turn !== this.turn) return; // another request has started meanwhile
      this.misses = trouble ? this.misses + 1 : 0;
      this.node.querySelector(":scope > .loading")?.remove();
      show(this.trouble, trouble);
      if (answer && answer.status === 200) { this.tag = answer.headers.get("ETag"); this.take(body); }
      this.node.removeAttribute("aria-busy");
      if (this.every && !document.hidden) this.timer = setTimeout(() => this.load(), Math.min(this.every * 2 ** this.misses, LONGEST_MS));
    }
  }

  // A part of the page that the server renders.
  class Part extends Source {
    take(body) {
      const parsed = new DOMParser().parseFromString(body, "text/html"); // runs no script
      const focused = this.node.contains(document.activeElement) ? document.activeElement.id : "";
      const chosen = new Set([...this.node.querySelectorAll("input:checked")].map((input) => input.id));
      this.node.replaceChildren(...parsed.body.childNodes);
      for (const input of this.node.querySelectorAll("input[type=checkbox]")) if (input.id) input.checked = chosen.has(input.id);
      if (focused && byId(focused)) byId(focused).focus({ preventScroll: true });
      tellTimes();
      const said = this.node.querySelector("[data-said]");
      if (said && said.dataset.said !== this.said) { if (this.said) say(said.dataset.said); this.said = said.dataset.said; }
      this.node.dispatchEvent(new CustomEvent("taken", { bubbles: true }));
    }
  }

  const sources = {}; // by the id of their node
  const UNITS = [[86_400, "day"], [3600, "hour"], [60, "minute"]];
  const relative = new Intl.RelativeTimeFormat("en", { numeric: "auto" });
  function tellTimes() {
    for (const node of document.querySelectorAll("time")) {
      const seconds = (new Date(node.dateTime) - Date.now()) / 1000;
      const [size, unit] = UNITS.find(([size]) => Math.abs(seconds) >= size) || [1, "second"];
      if (!node.title) node.title = node.textContent;
      node.textContent = size === 1 ? "just now" : relative.format(Math.round(seconds / size), unit);
    }
  }

  // The filters of a part are in the page's address too, so that it can be bookmarked and shared.
  function remember(id, query) {
    const url = new URL(location.href);
    for (const [key, value] of Object.entries(query)) {
      const name = id === "list" ? key : `${id}.${key}`;
      if (value === "" || value == null) url.searchParams.delete(name); else url.searchParams.set(name, value);
    }
    history.replaceState(null, "", url);
  }
  function remembered(id) {
    const prefix = id === "list" ? "" : `${id}.`;
    const found = [...new URL(location.href).searchParams].filter(([key]) => key.startsWith(prefix) && (prefix || !key.includes(".")));
    return Object.fromEntries(found.map(([key, value]) => [key.slice(prefix.length), value]));
  }
  function ask(id, query) { remember(id, query); return sources[id].ask(query); }

  function add(id, source) {
    sources[id] = source;
    const known = remembered(id);
    Object.assign(source.query, known);
    for (const input of document.querySelectorAll(`[data-for="${id}"] [name]`)) {
      if (!(input.name in known)) continue;
      if (input.type === "checkbox") input.checked = known[input.name] === input.value; else input.value = known[input.name];
    }
    return source;
  }

  function filter(event) {
    const form = event.currentTarget, id = form.dataset.for;
    const fresh = { list: { before: "" }, trials: { page: "" } }[id] || {}; // back to the first page
    for (const input of form.elements) if (input.name) fresh[input.name] = input.type === "checkbox" && !input.checked ? "" : input.value;
    clearTimeout(form.timer);
    form.timer = setTimeout(() => ask(id, fresh), event.type === "input" && event.target.type === "search" ? 250 : 0);
  }

  function turn(event) { // sort, or turn a page
    const button = event.target.closest("[data-key]");
    if (!button) return;
    const query = { [button.dataset.key]: button.dataset.value };
    if (button.dataset.key === "sort") query.page = "";
    ask(button.closest("[data-live]").id, query);
  }

  async function change(event) {
    const button = event.target.closest("[data-post]");
    if (!button) return;
    const { post, content, question } = button.dataset, dialog = byId("ask"), back = button.id;
    byId("ask-question").textContent = question;
    byId("ask-yes").textContent = button.textContent;
    show(byId("ask-trouble"), "");
    byId("ask-yes").onclick = async () => {
      byId("ask-yes").disabled = true; // no second click
      const answer = await fetch(post, { method: "POST", body: content, headers: { "Content-Type": "application/json", ...BY_BOARD } }).catch(() => null);
      byId("ask-yes").disabled = false;
      if (answer && answer.ok) { dialog.close(); say("Done."); sources.head.load(); } else show(byId("ask-trouble"), answer ? await wrong(answer) : "The service does not answer.");
    };
    dialog.onclose = () => { if (byId(back)) byId(back).focus(); };
    dialog.showModal();
    byId("ask-no").focus();
  }

  async function copy(event) {
    const button = event.currentTarget, label = button.textContent;
    const answer = await fetch(button.dataset.copy).catch(() => null);
    if (!answer || !answer.ok) { say(answer ? await wrong(answer) : "The service does not answer."); button.textContent = "Not copied"; } else {
      const text = await answer.text();
      try { await navigator.clipboard.writeText(text); } catch { byHand(text); } // browsers have a clipboard for https only
      button.textContent = "Copied"; say("Copied.");
    }
    setTimeout(() => { button.textContent = label; }, 2000);
  }
  function byHand(text) {
    const area = document.createElement("textarea");
    area.value = text; document.body.append(area); area.select(); document.execCommand("copy"); area.remove();
  }

  function theme() {
    const dark = byId("dark"), button = byId("theme");
    const tell = () => { button.textContent = matchMedia(dark.media).matches ? "Light" : "Dark"; button.setAttribute("aria-label", `Switch to ${button.textContent.toLowerCase()} colours`); };
    const turned = () => { tell(); document.dispatchEvent(new Event("colours")); };
    button.hidden = false; tell();
    button.onclick = () => {
      const chosen = button.textContent.toLowerCase();
      localStorage.setItem("theme", chosen); dark.media = chosen === "dark" ? "all" : "not all"; turned();
    };
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", turned);
  }

  function needs() { // disable a button until enough rows are selected
    for (const button of document.querySelectorAll("[data-needs]")) {
      button.disabled = button.form.querySelectorAll("input:checked").length < Number(button.dataset.needs);
    }
  }

  theme(); tellTimes(); setInterval(tellTimes, 30_000);
  for (const node of document.querySelectorAll("[data-live]")) add(node.id, new Part(node, node.dataset.live, 1000 * node.dataset.every)).load();
  for (const node of document.querySelectorAll("[data-once]")) { // once it scrolls into view
    const part = new Part(node, node.dataset.once, 0);
    new IntersectionObserver((seen, watch) => { if (seen.some((each) => each.isIntersecting)) { watch.disconnect(); part.load(); } }, { rootMargin: "200px" }).observe(node);
  }
  for (const form of document.querySelectorAll("[data-for]")) {
    form.addEventListener("input", filter);
    form.addEventListener("submit", (event) => { event.preventDefault(); filter(event); });
  }
  for (const button of document.querySelectorAll("[data-copy]")) button.addEventListener("click", copy);
  document.addEventListener("click", turn);
  document.addEventListener("click", change);
  document.addEventListener("change", needs);
  document.addEventListener("taken", needs);
  const out = byId("sign-out");
  if (out) out.onclick = async () => { await fetch("/sign-out", { method: "POST", headers: BY_BOARD }); location.replace("/sign-in"); };

  return { Source, add, ask, sources, byId, say, show, wrong };
})();
