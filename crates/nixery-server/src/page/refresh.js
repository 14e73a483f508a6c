// Renews the part of the page that changes, while somebody looks at it. Without scripts the page reloads as a whole.
const script = document.currentScript;
let seconds = Number(script.dataset.seconds);

async function renew() {
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
      // A page without the script is one that changes no more.
      if (answer.ok && !next) return;
      if (next) seconds = Number(next.dataset.seconds);
    } catch {
      // The server restarts, or the network is away: try again.
    }
  }
  setTimeout(renew, seconds * 1000);
}

setTimeout(renew, seconds * 1000);
