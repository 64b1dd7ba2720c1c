/** Two things measured in turns, so that what changes on the machine meanwhile hits both. */

/** Paired measurements, a pair a round. */
export interface Rounds {
  readonly ours: readonly number[];
  readonly peers: readonly number[];
}

/** A ratio and where it lies in 95 of 100 cases. */
export interface RatioInterval {
  readonly ratio: number;
  readonly low: number;
  readonly high: number;
}

/** Two-sided 97.5 % points of Student's t by degrees of freedom, from 1. Beyond the table: that of the last. */
const STUDENT_T = [
  12.71, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.16, 2.145,
  2.131, 2.12, 2.11, 2.101, 2.093, 2.086,
] as const;

/** Measures both in each round, whoever was first being second in the next. */
export async function alternate(
  rounds: number,
  contenders: { readonly ours: () => Promise<number>; readonly peer: () => Promise<number> },
): Promise<Rounds> {
  const ours: number[] = [];
  const peers: number[] = [];
  for (let round = 0; round < rounds; round += 1) {
    const turns = [
      async () => void ours.push(await contenders.ours()),
      async () => void peers.push(await contenders.peer()),
    ];
    if (round % 2 === 1) turns.reverse();
    for (const turn of turns) await turn();
  }
  return { ours, peers };
}

/** Mean of the rounds' ratios with its 95 % interval. NaN for no round; without an interval for one. */
export function ratioOf({ ours, peers }: Rounds): RatioInterval {
  const ratios = ours.map((value, index) => value / (peers[index] ?? Number.NaN));
  const ratio = ratios.reduce((sum, one) => sum + one, 0) / ratios.length;
  const freedom = ratios.length - 1;
  if (freedom < 1) return { ratio, low: ratio, high: ratio };
  const variance = ratios.reduce((sum, one) => sum + (one - ratio) ** 2, 0) / freedom;
  const t = STUDENT_T[Math.min(freedom, STUDENT_T.length) - 1] ?? Number.NaN;
  const reach = t * Math.sqrt(variance / ratios.length);
  return { ratio, low: ratio - reach, high: ratio + reach };
}
