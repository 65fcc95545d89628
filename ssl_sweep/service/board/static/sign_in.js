"use strict";
// Sends the token once; then the browser has it in a cookie that no script can read.
(() => {
  const { byId, show, wrong } = Board;
  const form = byId("sign-in");
  const there = () => location.replace(location.pathname === "/sign-in" ? "/" : location.href);

  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const headers = { Authorization: `Bearer ${byId("token").value.trim()}`, "X-Board": "1" };
    const answer = await fetch("/session", { method: "POST", headers }).catch(() => null);
    if (answer && answer.ok) there();
    else show(byId("trouble"), answer ? (answer.status === 401 ? "This token is not known." : await wrong(answer)) : "The service does not answer.");
  });

  // After a link on another site the browser withholds the cookie, but sends it with a request from our page.
  if (form.dataset.sent === "false") {
    fetch("/sign-in/sent").then((answer) => answer.json()).then(({ sent }) => { if (sent) there(); }).catch(() => {});
  }
})();
