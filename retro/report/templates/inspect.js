"use strict";
// Without this script all samples stand one below the other; with it one is shown at a time.
(() => {
  const samples = [...document.querySelectorAll(".sample")];
  const which = document.getElementById("which");
  const before = document.getElementById("before");
  const after = document.getElementById("after");
  const shown = () => samples.findIndex((sample) => sample.id === which.value);
  const show = (place) => {
    const wanted = Math.min(Math.max(place, 0), samples.length - 1);
    samples.forEach((sample, number) => sample.classList.toggle("away", number !== wanted));
    which.value = samples[wanted].id;
    before.disabled = wanted === 0;
    after.disabled = wanted === samples.length - 1;
  };
  const turn = (step) => {
    show(shown() + step);
    scrollTo({ top: 0 });
  };
  which.addEventListener("change", () => turn(0));
  before.addEventListener("click", () => turn(-1));
  after.addEventListener("click", () => turn(1));
  addEventListener("keydown", (event) => {
    if (event.target.closest("select") || event.altKey || event.ctrlKey || event.metaKey) return;
    if (event.key === "ArrowLeft") turn(-1);
    if (event.key === "ArrowRight") turn(1);
  });
  document.querySelector(".turn").hidden = false;
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  show(Math.max(samples.findIndex((sample) => sample.contains(target)), 0));
  if (target) target.scrollIntoView();
})();
