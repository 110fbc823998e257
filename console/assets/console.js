"use strict";

// The parts of a page that are alive are fetched again now and then, while somebody sees them.
const live = () => document.querySelectorAll("[data-live]");
const every = 1000 * Math.max(1, Number(document.body.dataset.every));
let last = Date.now();

function stale() {
	const fresh = document.getElementById("fresh");
	if (fresh && !fresh.dataset.stale) {
		fresh.dataset.stale = "1";
		fresh.setAttribute("role", "status");
		fresh.textContent = "Stale: the console has not answered since " + new Date(last).toISOString().slice(11, 19) + ".";
	}
}

async function refresh() {
	if (document.visibilityState !== "visible" || live().length === 0) return;
	try {
		const answer = await fetch(location.href, {headers: {Accept: "text/html"}, signal: AbortSignal.timeout(2 * every)});
		if (!answer.ok) throw new Error(answer.status);
		const page = new DOMParser().parseFromString(await answer.text(), "text/html");
		for (const old of live()) {
			const part = page.getElementById(old.id);
			if (part && !(old.contains(document.activeElement) && document.activeElement !== old)) old.replaceWith(document.adoptNode(part));
		}
		last = Date.now();
	} catch {
		if (Date.now() - last > 2 * every) stale();
	}
}

if (live().length > 0) {
	setInterval(refresh, every);
	document.addEventListener("visibilitychange", refresh);
}

document.addEventListener("change", e => {
	const name = e.target.dataset.all;
	if (name) for (const box of e.target.form.querySelectorAll(`input[name="${name}"]`)) box.checked = e.target.checked;
});

// An action on all that match goes on by itself, step by step, until somebody stops it.
const goesOn = document.querySelector("form[data-goes-on]");
if (goesOn) {
	const stop = goesOn.querySelector("[data-stop]");
	const timer = setTimeout(() => goesOn.submit(), 300);
	stop.hidden = false;
	stop.addEventListener("click", () => { clearTimeout(timer); stop.hidden = true; });
}
