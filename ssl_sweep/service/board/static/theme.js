"use strict";
// Before the first paint: the colours that were chosen here, or else the system's.
document.getElementById("dark").media = { dark: "all", light: "not all" }[localStorage.getItem("theme")] || "screen and (prefers-color-scheme: dark)";
