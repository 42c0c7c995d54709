document.getElementById("only").addEventListener("change", (event) => {
  document.getElementById("steps").classList.toggle("only", event.target.checked);
});
