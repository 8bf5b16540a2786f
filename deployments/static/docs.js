for (const command of document.querySelectorAll(".curl")) {
  command.textContent = command.textContent.replace("$HOST", location.host);
}
for (const form of document.querySelectorAll("form")) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const out = form.querySelector("pre");
    out.hidden = false;
    out.textContent = "…";
    try {
      const answer = await fetch(form.dataset.path, {
        method: "POST",
        headers: { "content-type": "application/json" },
        body: form.querySelector("textarea").value,
      });
      out.textContent = `${answer.status} ${answer.statusText}\n${JSON.stringify(await answer.json(), null, 2)}`;
    } catch (error) {
      out.textContent = error;
    }
  });
}
