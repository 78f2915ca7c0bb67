// Pictures open large in a dialog: at their own size or as large as fits; Escape closes it.
const dialog = document.getElementById("large");
const place = dialog.querySelector(".scroll");
for (const button of document.querySelectorAll("button.picture")) {
  button.addEventListener("click", () => {
    const copy = button.querySelector("img").cloneNode();
    copy.loading = "eager";
    place.replaceChildren(copy);
    dialog.showModal();
    place.focus();
  });
}
dialog.addEventListener("click", (event) => {
  if (event.target === dialog) dialog.close();
});
dialog.addEventListener("close", () => place.replaceChildren());
