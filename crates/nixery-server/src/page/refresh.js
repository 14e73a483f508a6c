// Loads the changing part of the page again while the page is visible. Without scripts the whole page reloads.
const script = document.currentScript;
let seconds = Number(script.dataset.seconds);

async function refresh() {
  if (document.visibilityState === "visible") {
    try {
      const answer = await fetch(location.href, { headers: { Accept: "text/html" } });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const [before, after] = [document, page].map((from) => from.getElementById("live"));
      if (answer.ok && before && after && before.innerHTML !== after.innerHTML) {
        const focus = document.activeElement?.getAttribute("href");
        const held = before.contains(document.activeElement);
        before.replaceWith(document.importNode(after, true));
        if (held && focus) document.querySelector(`#live a[href="${CSS.escape(focus)}"]`)?.focus();
      }
      const next = page.querySelector("script[data-seconds]");
      // A page without the script does not change any more.
      if (answer.ok && !next) return;
      if (next) seconds = Number(next.dataset.seconds);
    } catch {
      // The server restarts, or the network fails: try again.
    }
  }
  setTimeout(refresh, seconds * 1000);
}

setTimeout(refresh, seconds * 1000);
