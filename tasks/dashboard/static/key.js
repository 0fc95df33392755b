// Editing a key's state: write it, review old and new side by side, then set it. The server refuses it if the state changed meanwhile.
(function () {
  "use strict";

  const {post, toast, refresh, visible} = window.partitions;
  const find = (id) => document.getElementById(id);
  const dialog = find("edit-dialog"), text = find("edit-text"), error = find("edit-error");
  const key = JSON.parse(find("key-page").dataset.key);
  let edited = null;

  function say(words) {
    error.textContent = words;
    error.hidden = !words;
  }

  function step(reviewing) {
    find("edit-write").hidden = reviewing;
    find("edit-review").hidden = !reviewing;
    find("edit-preview").hidden = reviewing;
    find("edit-set").hidden = !reviewing;
    find("edit-back").hidden = !reviewing;
    say("");
    (reviewing ? find("edit-set") : text).focus();
  }

  function body(more) {
    return {...key, ...edited, state: text.value, replace: find("edit-replace").checked, ...more};
  }

  async function review() {
    try {
      const change = await post("key/state", body({preview: true}));
      edited.digest = change.digest; // the digest of the state shown as the old one
      step(true);
      find("edit-old").textContent = visible(JSON.stringify(change.old, null, 2));
      find("edit-new").textContent = visible(JSON.stringify(change.new, null, 2));
    } catch (problem) {
      say(problem.message);
    }
  }

  async function set() {
    find("edit-set").disabled = true;
    try {
      toast((await post("key/state", body({}))).message, "success");
      dialog.close();
      await refresh();
    } catch (problem) {
      say(problem.message);
    }
    find("edit-set").disabled = false;
  }

  document.addEventListener("click", (event) => {
    const button = event.target.closest("button[data-edit-state]");
    if (!button) { return; }
    edited = {computation: button.dataset.computation, digest: button.dataset.digest};
    text.value = visible(button.dataset.editState);
    find("edit-replace").checked = false;
    find("edit-title").textContent = "Edit the state in " + edited.computation;
    dialog.showModal();
    step(false);
  });
  find("edit-form").addEventListener("submit", (event) => event.preventDefault());
  find("edit-preview").addEventListener("click", review);
  find("edit-set").addEventListener("click", set);
  find("edit-back").addEventListener("click", () => step(false));
  find("edit-cancel").addEventListener("click", () => dialog.close());
}());
