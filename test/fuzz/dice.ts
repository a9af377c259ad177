/** Choices from a seed: the same seed makes the same choices. */
import { streamOf } from "../../runtime/random.ts";

export class Dice {
  private readonly next: () => number;

  constructor(seed: string | number) {
    this.next = streamOf(`fuzz/${seed}`);
  }

  /** A whole number from 0 to `below`, without it. */
  below(below: number): number {
    return Math.floor(this.next() * below);
  }

  pick<Item>(list: readonly Item[]): Item {
    return list[this.below(list.length)]!;
  }

  chance(probability: number): boolean {
    return this.next() < probability;
  }
}
