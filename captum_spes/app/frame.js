// Shows the report in a frame that is as high as the report is, and tells which word is chosen in it. Gradio runs this
// with the component's `element` and `props`.
const frame = () => element.querySelector("iframe");
let chosen = 0; // the number of the word
let isNew = false; // whether the report in the frame shows its first word still

watch("value", () => {
  if (!props.value) chosen = 0; // another recording
  isNew = true;
  frame().hidden = !props.value;
  frame().srcdoc = props.value?.page ?? "";
});

addEventListener("message", ({ source, data }) => {
  if (!frame() || source !== frame().contentWindow || !data?.captumSpes) return;
  const { height, view, word, clicked } = data.captumSpes;
  frame().style.height = `${height}px`;
  if (!word || view === "explained") return; // the report of a contrast has no other words
  if (isNew && word.index !== chosen && !clicked) {
    frame().contentWindow.postMessage({ captumSpes: { chooseWord: chosen } }, "*");
    return; // until the page has followed
  }
  isNew = false;
  if (word.index === chosen && !clicked) return;
  chosen = word.index;
  trigger("select", { index: chosen });
});
