// Pictures open in a dialog, as many whole times their own size as fit, once at least.
// Escape closes it, as does a click beside the picture.
const dialog = document.getElementById("large");
const place = dialog.querySelector(".scroll");
for (const button of document.querySelectorAll("button.picture")) {
  button.addEventListener("click", () => {
    const picture = button.querySelector("img");
    const [width, height] = ["width", "height"].map((side) => Number(picture.getAttribute(side)));
    const copy = picture.cloneNode();
    copy.loading = "eager";
    const fit = Math.min(innerWidth / width, innerHeight / height);
    copy.style.width = `${width * Math.max(1, Math.floor(fit))}px`;
    place.replaceChildren(copy);
    dialog.showModal();
    place.focus();
  });
}
dialog.addEventListener("click", (event) => {
  if (event.target === place) dialog.close();
});
dialog.addEventListener("close", () => place.replaceChildren());
// What is folded is on paper too, but for model cards, which are files of their own.
addEventListener("beforeprint", () => {
  for (const folded of document.querySelectorAll("details")) folded.open = true;
});
