/** Says what is being waited for, where that takes longer than one expects. */

/** Milliseconds after which it is said for the first time, and from one time to the next. */
const [first, later] = [2_000, 10_000];

/** What `work` gives; meanwhile `say` is told that `what` takes its time, and how much. */
export async function patiently<Result>(
  what: string,
  say: (text: string) => void,
  work: () => Promise<Result>,
): Promise<Result> {
  const started = performance.now();
  const tell = () => {
    say(`  ${what}: ${((performance.now() - started) / 1000).toFixed(0)} s so far ...`);
    timer = setTimeout(tell, later);
  };
  let timer = setTimeout(tell, first);
  try {
    return await work();
  } finally {
    clearTimeout(timer);
  }
}
