// The report as a widget of notebooks: it shows the page in a frame, and tells Python what is chosen and marked there.
function render({ model, el }) {
  const frame = document.createElement("iframe");
  frame.title = "Report";
  frame.setAttribute("sandbox", "allow-scripts"); // neither page reaches the other
  Object.assign(frame.style, { width: "100%", height: `${model.get("height")}px`, border: "0" });
  let shown, wanted; // the number of the word that the page shows, and of the one that it is to show
  const show = () => {
    [shown, wanted] = [null, model.get("selected_index")];
    frame.srcdoc = model.get("page");
  };
  const choose = () => {
    const index = model.get("selected_index");
    if (index === shown) return;
    wanted = index;
    if (index !== null) frame.contentWindow?.postMessage({ captumSpes: { chooseWord: index } }, "*");
  };
  const listen = ({ source, data }) => {
    if (source !== frame.contentWindow || !data?.captumSpes) return;
    const { word, region, clicked } = data.captumSpes;
    const isFirst = shown === null;
    shown = word?.index ?? null;
    if (wanted !== null && wanted !== shown && !clicked) {
      if (isFirst) choose();
      return;
    }
    wanted = null;
    model.set({ selected_index: word?.index ?? null, selected_word: word?.text ?? null, region });
    model.save_changes();
  };
  model.on("change:page", show);
  model.on("change:selected_index", choose);
  addEventListener("message", listen);
  show();
  el.append(frame);
  return () => {
    model.off("change:page", show);
    model.off("change:selected_index", choose);
    removeEventListener("message", listen);
  };
}

export default { render };
