/** Running decoders on mutated inputs: each must give a value or one of its own errors, soon, and keep nothing. */
import { createRandom, mutate, type Random } from './mutate.ts';

/** A decoder under test. */
export interface FuzzTarget {
  readonly name: string;
  /** Values that it takes, to begin with. */
  readonly corpus: readonly Buffer[];
  /** Share of the inputs, against the other targets. */
  readonly weight: number;
  /** Decodes; throws an Error of its own for a result that contradicts itself. */
  run(input: Buffer, random: Random): void;
  /** Whether an error is one that the decoder may throw. */
  isTyped(error: unknown): boolean;
}

/** What a run found. */
export interface FuzzReport {
  readonly inputs: number;
  readonly refused: number;
  readonly byTarget: Readonly<
    Record<string, { readonly inputs: number; readonly refused: number }>
  >;
  readonly slowestMs: number;
  readonly heapGrowthMiB: number;
  /** Empty when all is well. */
  readonly findings: readonly string[];
}

/** An input that takes longer is a finding, if it does so each time. */
const SLOW_MS = 1500;
const MAX_FINDINGS = 10;
const ROUND = 5000;

/** Seed and number of inputs: `--inputs=N --seed=N`, else a million in long runs and `usual` in others. */
export function fuzzOptions(
  usual: number,
  context: { readonly argv: readonly string[]; readonly isLong: boolean; readonly long: number },
): { readonly inputs: number; readonly seed: number } {
  const flag = (name: string): number | undefined => {
    const text = context.argv.find((arg) => arg.startsWith(`--${name}=`));
    return text === undefined ? undefined : Number(text.slice(name.length + 3));
  };
  return {
    inputs: flag('inputs') ?? (context.isLong ? context.long : usual),
    seed: flag('seed') ?? Math.floor(Math.random() * 2 ** 31),
  };
}

/** Runs mutated inputs through the targets, round by round, so that their findings come early. */
export function fuzz(
  targets: readonly FuzzTarget[],
  options: { readonly inputs: number; readonly seed: number },
): FuzzReport {
  const random = createRandom(options.seed);
  const turns = targets.flatMap((target) => new Array<FuzzTarget>(target.weight).fill(target));
  const counts = new Map(targets.map(({ name }) => [name, { inputs: 0, refused: 0 }]));
  const findings: string[] = [];
  let slowestMs = 0;
  let refused = 0;
  let inputs = 0;
  let firstHeap: number | undefined;
  const attempt = (target: FuzzTarget, input: Buffer): number => {
    const started = performance.now();
    try {
      target.run(input, random);
    } catch (error) {
      refused += 1;
      const count = counts.get(target.name);
      if (count !== undefined) count.refused += 1;
      if (!target.isTyped(error)) findings.push(describe(target, input, String(error)));
    }
    return performance.now() - started;
  };
  for (; inputs < options.inputs && findings.length < MAX_FINDINGS; inputs += 1) {
    const target = random.pick(turns);
    const input = mutate(random.pick(target.corpus), target.corpus, random);
    const count = counts.get(target.name);
    if (count !== undefined) count.inputs += 1;
    let took = attempt(target, input);
    // Another program may have had the processor.
    for (let again = 0; again < 2 && took > SLOW_MS; again += 1) took = attempt(target, input);
    slowestMs = Math.max(slowestMs, took);
    if (took > SLOW_MS) findings.push(describe(target, input, `took ${Math.round(took)} ms`));
    if (inputs % ROUND === ROUND - 1) firstHeap ??= heapMiB();
  }
  return {
    inputs,
    refused,
    byTarget: Object.fromEntries(counts),
    slowestMs: Math.round(slowestMs),
    heapGrowthMiB: Math.round(heapMiB() - (firstHeap ?? heapMiB())),
    findings,
  };
}

function heapMiB(): number {
  globalThis.gc?.();
  const { heapUsed, external } = process.memoryUsage();
  return (heapUsed + external) / 2 ** 20;
}

function describe(target: FuzzTarget, input: Buffer, what: string): string {
  const text = input.subarray(0, 3000).toString('base64');
  return `${target.name}: ${what.slice(0, 500)}; input of ${input.length} bytes in base64: ${text}`;
}
