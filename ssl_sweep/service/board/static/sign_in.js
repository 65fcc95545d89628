"use strict";
// The token is sent once; from then on the browser has it in a cookie that no script reads.
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

  // A link of another site has led here, and the browser kept the cookie back: it sends it to a page of ours.
  if (form.dataset.sent === "false") {
    fetch("/sign-in/sent").then((answer) => answer.json()).then(({ sent }) => { if (sent) there(); }).catch(() => {});
  }
})();
