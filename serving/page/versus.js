// A second funnel spec beside the first: the same user's feed of another surface, and where the two agree.
import { drawCard } from "/static/cards.js";

export async function drawVersus(column, user, surface, size, own, now) {
  const reply = await fetch("/feed", {
    method: "POST", headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ user_id: user, surface, limit: size, explain: true, context: { device: "web" } }),
  });
  if (!reply.ok) throw new Error(`/feed answered ${reply.status}`);
  const page = await reply.json();
  const place = new Map(own.map((postId, at) => [postId, at]));
  const shared = page.posts.filter((post) => place.has(post.post_id)).length;
  column.querySelector(".versus-title").textContent = `${surface}, ${page.spec_version}`;
  column.querySelector(".versus-shared").textContent = `${shared} of ${page.posts.length} posts are in both`;
  column.querySelector("ol").replaceChildren(...page.posts.map((post, at) => {
    const item = drawCard(post, now);
    item.querySelector(".actions").remove();
    item.querySelector(".cover").disabled = true;
    const mark = document.createElement("p");
    mark.className = "agreement";
    mark.textContent = place.has(post.post_id) ? moved(at, place.get(post.post_id)) : "only here";
    item.querySelector(".body").prepend(mark);
    return item;
  }));
}

function moved(here, there) {
  if (here === there) return "same place";
  return `${Math.abs(here - there)} ${here < there ? "higher" : "lower"} here`;
}
