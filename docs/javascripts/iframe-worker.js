// Lets the search of the built site work when a page is opened from a disk, where browsers start no workers: its code
// then runs in a hidden frame. Served sites keep their real workers.
if (location.protocol === "file:") {
  window.IFrameWorker = class extends EventTarget {
    constructor(url) {
      super();
      this.waiting = [];
      this.frame = document.createElement("iframe");
      this.frame.hidden = true;
      this.frame.title = "search";
      document.documentElement.append(this.frame);
      const inside = this.frame.contentWindow, load = (src) => new Promise((done, failed) => {
        const script = inside.document.createElement("script");
        Object.assign(script, { src, onload: done, onerror: failed });
        inside.document.documentElement.append(script);
      });
      inside.postMessage = (data) => this.dispatchEvent(new MessageEvent("message", { data }));
      inside.importScripts = (...urls) => urls.reduce((before, src) => before.then(() => load(src)), Promise.resolve());
      load(url).then(() => {
        for (const data of this.waiting) this.tell(data);
        this.waiting = null;
      });
    }

    tell(data) { this.frame.contentWindow.dispatchEvent(new MessageEvent("message", { data })); }

    postMessage(data) {
      if (this.waiting) this.waiting.push(data);
      else this.tell(data);
    }

    terminate() { this.frame.remove(); }
  };
  window.Worker = window.IFrameWorker;
}
