// Search from a file: address. Browsers start no Worker there; a hidden frame does its work.
if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super();
      const frame = document.createElement("iframe");
      frame.hidden = true;
      document.body.append(frame);
      const scope = frame.contentWindow;
      const load = (address) =>
        new Promise((resolve, reject) => {
          const script = scope.document.createElement("script");
          script.src = new URL(address, document.baseURI);
          script.onload = resolve;
          script.onerror = reject;
          scope.document.body.append(script);
        });
      scope.importScripts = (...addresses) =>
        addresses.reduce((before, one) => before.then(() => load(one)), Promise.resolve());
      scope.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      this.scope = scope;
      this.ready = load(url);
    }

    postMessage(data) {
      const { scope } = this;
      this.ready.then(() => scope.dispatchEvent(new scope.MessageEvent("message", { data })));
    }
  };
  window.Worker = window.IFrameWorker;
}
