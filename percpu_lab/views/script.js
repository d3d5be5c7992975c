// Holds a script that Python sends, for live.js to run: as a message, since state would be saved into notebook files.

const PATIENCE_MS = 500; // a page that was loaded after Python sent the script has to ask for it

export default () => ({
  initialize({model}) {
    const text = new Promise((resolve) => {
      const timer = setTimeout(() => model.send({type: "hello"}), PATIENCE_MS);
      model.on("msg:custom", (_content, [bytes]) => {
        clearTimeout(timer);
        resolve(new TextDecoder().decode(bytes));
      });
    });
    return {text};
  },
});
