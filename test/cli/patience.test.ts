import { afterEach, expect, test, vi } from "vitest";
import { patiently } from "../../compiler/cli/patience.ts";

afterEach(() => vi.useRealTimers());

test("what takes long is said, what does not is not", async () => {
  vi.useFakeTimers();
  const said: string[] = [];
  const say = (text: string) => said.push(text);
  const after = (ms: number) => () =>
    new Promise<number>((resolve) => setTimeout(() => resolve(ms), ms));
  const short = patiently("short", say, after(1000));
  await vi.advanceTimersByTimeAsync(1000);
  expect(await short).toBe(1000);
  const long = patiently("long", say, after(15_000));
  await vi.advanceTimersByTimeAsync(15_000);
  expect(await long).toBe(15_000);
  const failing = patiently("failing", say, () => Promise.reject(new Error("no")));
  await expect(failing).rejects.toThrow("no");
  await vi.advanceTimersByTimeAsync(60_000);
  expect(said).toEqual(["  long: 2 s so far ...", "  long: 12 s so far ..."]);
});
