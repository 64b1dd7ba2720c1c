/**
 * Metrics in Prometheus' text format. Most values are asked for at each scrape instead of being counted along the way:
 * the parts need not know that there are metrics, and a peer that has gone leaves no series behind.
 */
import { collectDefaultMetrics, Histogram, Registry } from 'prom-client';

/** Labels of one series: a value for each name of the family. */
export type MetricLabels<Name extends string> = Readonly<Record<Name, string>>;

/** A family whose series are told anew at each scrape, in a callback of `onCollect`. */
export interface PulledFamily<Name extends string> {
  /** Tells one series. The second call with equal labels would make the scrape invalid. */
  set(value: number, labels: MetricLabels<Name>): void;
}

/** Counts of a histogram by bucket, as whoever keeps it has them. */
export interface BucketCounts {
  /** Upper bounds in the unit of the family, ascending, without infinity. */
  readonly bounds: readonly number[];
  /** How many were in each bucket, not cumulative; one more than bounds, the last for what is above them all. */
  readonly counts: ArrayLike<number>;
  readonly sum: number;
}

/** A histogram that is kept elsewhere and told at each scrape. */
export interface PulledHistogram<Name extends string> {
  set(counts: BucketCounts, labels: MetricLabels<Name>): void;
}

/** A histogram that is kept here: one observation costs about a microsecond. */
export interface ObservedHistogram<Name extends string> {
  observe(value: number, labels: MetricLabels<Name>): void;
}

/** What a family is: its name in full, help for people, and the names of its labels. */
export interface FamilyOptions<Name extends string> {
  readonly help: string;
  readonly labels?: readonly Name[];
}

/** All metrics of a process. */
export interface Metrics {
  /** A value that goes up and down. */
  gauge<Name extends string = never>(
    name: string,
    options: FamilyOptions<Name>,
  ): PulledFamily<Name>;
  /** A total since the process began; its name ends in `_total`, but where Cilium's does not. */
  counter<Name extends string = never>(
    name: string,
    options: FamilyOptions<Name>,
  ): PulledFamily<Name>;
  pulledHistogram<Name extends string>(
    name: string,
    options: FamilyOptions<Name>,
  ): PulledHistogram<Name>;
  histogram<Name extends string>(
    name: string,
    options: FamilyOptions<Name> & { readonly bounds: readonly number[] },
  ): ObservedHistogram<Name>;
  /** Calls back before each scrape. One that throws costs its own families alone. */
  onCollect(callback: () => void): void;
  /** The text of a scrape. */
  text(): Promise<string>;
  /** Media type of that text. */
  readonly contentType: string;
}

/**
 * Makes an empty set of metrics. With `process` it has those of the process as well (memory, CPU, event loop, open
 * files), under the names that every client library gives them. `onError` hears of callbacks that threw.
 */
export function createMetrics(
  options: { readonly process?: boolean; readonly onError?: (error: unknown) => void } = {},
): Metrics {
  const registry = new Registry();
  const callbacks: (() => void)[] = [];
  const families: PulledText[] = [];
  const names = new Set<string>();
  let failures = 0;
  if (options.process === true) collectDefaultMetrics({ register: registry });

  const pulled = (name: string, help: string, type: string): PulledText => {
    if (names.has(name) || registry.getSingleMetric(name) !== undefined) {
      throw new Error(`cannot add metric ${name}: there is one of that name`);
    }
    names.add(name);
    const family = createPulledText(`# HELP ${name} ${escapeHelp(help)}\n# TYPE ${name} ${type}\n`);
    families.push(family);
    return family;
  };
  const single = <Name extends string>(
    name: string,
    { help }: FamilyOptions<Name>,
    type: 'gauge' | 'counter',
  ): PulledFamily<Name> => {
    const text = pulled(name, help, type);
    return { set: (value, labels) => text.push(`${name}${braces(labelText(labels))}`, value) };
  };

  const scrapeErrors = single(
    'isthmus_scrape_errors_total',
    { help: 'Parts whose metrics could not be gathered at a scrape, since the process began' },
    'counter',
  );

  return {
    contentType: registry.contentType,
    gauge: (name, family) => single(name, family, 'gauge'),
    counter: (name, family) => single(name, family, 'counter'),
    pulledHistogram(name, { help }) {
      const text = pulled(name, help, 'histogram');
      return {
        set({ bounds, counts, sum }, labels) {
          const base = labelText(labels);
          const bucket = `${name}_bucket{${base}${base === '' ? '' : ','}le="`;
          let count = 0;
          bounds.forEach((bound, index) => {
            count += counts[index] ?? 0;
            text.push(`${bucket}${bound}"}`, count);
          });
          count += counts[bounds.length] ?? 0;
          text.push(`${bucket}+Inf"}`, count);
          text.push(`${name}_sum${braces(base)}`, sum);
          text.push(`${name}_count${braces(base)}`, count);
        },
      };
    },
    histogram(name, { help, labels = [], bounds }) {
      const family = new Histogram({
        name,
        help,
        labelNames: [...labels],
        buckets: [...bounds],
        registers: [registry],
      });
      return { observe: (value, labelsOfOne) => family.observe({ ...labelsOfOne }, value) };
    },
    onCollect(callback) {
      callbacks.push(callback);
    },
    async text() {
      for (const family of families) family.clear();
      for (const callback of callbacks) {
        try {
          callback();
        } catch (error) {
          failures += 1;
          options.onError?.(error);
        }
      }
      scrapeErrors.set(failures, {});
      const ours = families.map((family) => family.text()).join('');
      return `${ours}${await registry.metrics()}`;
    },
  };
}

/**
 * A family that is written out as it is told. The library would keep a table of series, hash the labels of each at each
 * scrape and format them one by one: with 250 peers that was 20 times the work of this.
 */
interface PulledText {
  push(series: string, value: number): void;
  clear(): void;
  text(): string;
}

function createPulledText(head: string): PulledText {
  let lines = '';
  return {
    push(series, value) {
      lines += `${series} ${valueText(value)}\n`;
    },
    clear() {
      lines = '';
    },
    // A family without series is left out: there is nothing to be said of it.
    text: () => (lines === '' ? '' : head + lines),
  };
}

function labelText(labels: Readonly<Record<string, string>>): string {
  let text = '';
  for (const name in labels) {
    text += `${text === '' ? '' : ','}${name}="${escapeLabel(labels[name] ?? '')}"`;
  }
  return text;
}

function braces(labels: string): string {
  return labels === '' ? '' : `{${labels}}`;
}

function escapeLabel(value: string): string {
  return /[\\"\n]/.test(value)
    ? value.replace(/\\/g, '\\\\').replace(/"/g, '\\"').replace(/\n/g, '\\n')
    : value;
}

function escapeHelp(help: string): string {
  return help.replace(/\\/g, '\\\\').replace(/\n/g, '\\n');
}

function valueText(value: number): string {
  if (value === Number.POSITIVE_INFINITY) return '+Inf';
  if (value === Number.NEGATIVE_INFINITY) return '-Inf';
  return String(value);
}
