const source = new EventSource("stream?dashboard=overview");
source.addEventListener("dashboard", (event) => {
  document.getElementById("page").textContent = JSON.parse(event.data).dashboard.title;
});
