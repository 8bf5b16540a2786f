// Behind a route prefix the page stands at <prefix>/docs, and all paths begin with it.
const root = location.pathname.replace(/\/docs\/?$/, "");
for (const example of document.querySelectorAll(".paste")) {
  example.textContent = example.textContent
    .replaceAll("$HOST", location.host + root)
    .replaceAll("localhost:9000", `${location.hostname}:9000`);
  const copy = document.createElement("button");
  copy.type = "button";
  copy.className = "copy";
  copy.textContent = "Copy";
  copy.addEventListener("click", async () => {
    await navigator.clipboard.writeText(example.textContent);
    copy.textContent = "Copied";
    setTimeout(() => (copy.textContent = "Copy"), 1200);
  });
  example.parentElement.append(copy);
}
for (const list of document.querySelectorAll("[role=tablist]")) {
  const tabs = [...list.children];
  const show = (chosen) => {
    for (const tab of tabs) {
      tab.ariaSelected = String(tab === chosen);
      tab.tabIndex = tab === chosen ? 0 : -1;
      document.getElementById(tab.getAttribute("aria-controls")).hidden = tab !== chosen;
    }
  };
  list.addEventListener("click", (event) => tabs.includes(event.target) && show(event.target));
  list.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    const next = tabs[(tabs.indexOf(event.target) + step + tabs.length) % tabs.length];
    show(next);
    next.focus();
  });
}
for (const form of document.querySelectorAll("form")) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const out = form.querySelector(".answer");
    const status = form.querySelector(".status");
    status.textContent = "…";
    const began = performance.now();
    try {
      const answer = await fetch(root + form.dataset.path, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: form.querySelector("textarea").value,
      });
      const text = JSON.stringify(await answer.json(), null, 2);
      const took = (performance.now() - began).toFixed(1);
      const by = ["model", "version", "variant"].map((name) => answer.headers.get(`x-zaphod-${name}`)).filter(Boolean);
      status.textContent = `${answer.status} in ${took} ms${by.length ? ` by ${by.join(" · ")}` : ""}`;
      out.textContent = text;
      out.hidden = false;
    } catch (error) {
      status.textContent = String(error);
    }
  });
}
