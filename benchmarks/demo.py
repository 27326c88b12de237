"""What a click on the demo's page costs the server, without the page: the search at each key, the lists, the reasons.

    python -m benchmarks.demo --run runs/care-ml-100k --threads 1

The search goes over titles of random words, five each; lists and reasons are those of a run, for the last 20 items of a
user of its data.
"""

import random

from benchmarks.measure import alternate, arguments, threads, write_result
from hf_genrec.serving.demo.name_search import NameSearch
from hf_genrec.serving.demo.opened_run import open_run

QUERIES = ("a", "ab", "abc d", "fgh")
HISTORY = 20


def titles(count: int) -> list[str]:
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghij", k=rng.randrange(2, 9))) for _ in range(4000)]
    return [" ".join(rng.choices(words, k=5)) for _ in range(count)]


def main() -> None:
    options = arguments(__doc__, run="runs/care-ml-100k", titles=60_000)
    search = NameSearch(titles(options.titles))
    run = open_run(options.run)
    history = next(items for items in run.users.values() if len(items) >= HISTORY)[-HISTORY:]
    answer = run.recommend(history, 10, False)
    calls = {f"search {query!r}": (lambda query=query: search.find(query)) for query in QUERIES}
    calls["list of 10"] = lambda: run.recommend(history, 10, False)
    calls["reasons for an item"] = lambda: run.explain(answer, answer.items[0])
    results = []
    for count in options.threads:
        with threads(count):
            for name, measured in alternate(calls, options.repeats).items():
                results.append({"threads": count, "what": name, **measured})
                print(f"{count} threads  {name:22s} {1000 * measured['cpu_seconds']:8.1f} CPU ms")
    settings = {"run": run.name, "titles": options.titles, "history": HISTORY, "repeats": options.repeats}
    print(write_result("demo", "python -m benchmarks.demo", settings, results))


if __name__ == "__main__":
    main()
