// Retry one dead letter of a group, see whether it dies again, and offer to retry the rest.
(function () {
  "use strict";

  const {page, post, toast, confirmed, refresh, count} = window.partitions;
  const PATIENCE = 8; // seconds

  async function look(query) {
    const words = new URLSearchParams({...query, q: query.text || "", sink: page.dataset.sink});
    const reply = await fetch(page.dataset.api + "/dead-letters?" + words, {credentials: "same-origin"});
    return reply.ok ? await reply.json() : null;
  }

  async function tryOne(button) {
    const query = JSON.parse(button.dataset.canary);
    button.disabled = true;
    try {
      const before = await look(query);
      const sent = await post("dead-letters/retry", {...query, limit: 1});
      toast(sent.message + ". Watching it for " + PATIENCE + " s.", "success");
      let found = null;
      for (let second = 0; second < PATIENCE; second += 1) {
        await new Promise((resolve) => setTimeout(resolve, 1000));
        found = await look(query);
        if (found && before && found.found >= before.found) {
          toast("It failed again: the cause is still there.", "danger");
          await refresh();
          return;
        }
      }
      const left = found ? found.found : 0;
      if (left && await confirmed("It has not failed again. Retry the other " + count(left) + "?", "Retry")) {
        toast((await post("dead-letters/retry", query)).message, "success");
      }
    } catch (error) {
      toast(error.message, "danger");
    }
    button.disabled = false;
    await refresh();
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-canary]");
    if (button) { tryOne(button); }
  });
}());
