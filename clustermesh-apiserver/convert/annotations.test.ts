import { test } from 'tap';
import { describeWarning } from './annotation-warning.ts';
import { readGlobalServiceSettings } from './annotations.ts';

const GLOBAL = 'service.cilium.io/global';
const SHARED = 'service.cilium.io/shared';
const AFFINITY = 'service.cilium.io/affinity';
const OLD_GLOBAL = 'io.cilium/global-service';
const OLD_SHARED = 'io.cilium/shared-service';
const OLD_AFFINITY = 'io.cilium/service-affinity';

type Row = readonly [
  what: string,
  annotations: Readonly<Record<string, string>>,
  expected: readonly [global: boolean, shared: boolean, affinity: string],
  warnings?: number,
];

const ROWS: readonly Row[] = [
  ['nothing', {}, [false, false, 'none']],
  ['global', { [GLOBAL]: 'true' }, [true, true, 'none']],
  ['global by its old name', { [OLD_GLOBAL]: 'true' }, [true, true, 'none']],
  ['upper case is true, too', { [GLOBAL]: 'TRUE' }, [true, true, 'none']],
  ['global false', { [GLOBAL]: 'false' }, [false, false, 'none']],
  ['any other word is false', { [GLOBAL]: 'yes' }, [false, false, 'none'], 1],
  [
    'the new name wins over the old one',
    { [GLOBAL]: 'false', [OLD_GLOBAL]: 'true' },
    [false, false, 'none'],
  ],
  ['shared false', { [GLOBAL]: 'true', [SHARED]: 'false' }, [true, false, 'none']],
  [
    'shared false by its old name',
    { [OLD_GLOBAL]: 'true', [OLD_SHARED]: 'false' },
    [true, false, 'none'],
  ],
  [
    'shared of any other word is false',
    { [GLOBAL]: 'true', [SHARED]: 'x' },
    [true, false, 'none'],
    1,
  ],
  [
    'the new shared wins',
    { [GLOBAL]: 'true', [SHARED]: 'true', [OLD_SHARED]: 'false' },
    [true, true, 'none'],
  ],
  ['shared alone counts nothing', { [SHARED]: 'true' }, [false, false, 'none']],
  ['affinity in any case', { [GLOBAL]: 'true', [AFFINITY]: 'Local' }, [true, true, 'local']],
  ['affinity local', { [GLOBAL]: 'true', [AFFINITY]: 'local' }, [true, true, 'local']],
  [
    'affinity remote by its old name',
    { [GLOBAL]: 'true', [OLD_AFFINITY]: 'remote' },
    [true, true, 'remote'],
  ],
  ['affinity none', { [GLOBAL]: 'true', [AFFINITY]: 'none' }, [true, true, 'none']],
  ['empty affinity is none', { [GLOBAL]: 'true', [AFFINITY]: '' }, [true, true, 'none']],
  ['unknown affinity is none', { [GLOBAL]: 'true', [AFFINITY]: 'near' }, [true, true, 'none'], 1],
  ['affinity alone counts nothing', { [AFFINITY]: 'local' }, [false, false, 'none']],
  ['a slip in the name', { 'service.cilium.io/gobal': 'true' }, [false, false, 'none'], 1],
  [
    'letters swapped',
    { [GLOBAL]: 'true', 'service.cilium.io/shaerd': 'x' },
    [true, true, 'none'],
    1,
  ],
  ['upper case', { 'service.cilium.io/Global': 'true' }, [false, false, 'none'], 1],
  ['a slip in the prefix', { 'services.cilium.io/global': 'true' }, [false, false, 'none'], 1],
  ['a slip in an old name', { 'io.cilium/global-services': 'true' }, [false, false, 'none'], 1],
  [
    'both names are no slips of each other',
    { [GLOBAL]: 'true', [OLD_GLOBAL]: 'true' },
    [true, true, 'none'],
  ],
  [
    'names of something else',
    {
      [GLOBAL]: 'true',
      'service.cilium.io/lb-l7': 'enabled',
      'service.cilium.io/type': 'ClusterIP',
      'service.kubernetes.io/topology-mode': 'Auto',
      'example.com/global': 'true',
    },
    [true, true, 'none'],
  ],
];

for (const [what, annotations, [global, shared, affinity], warnings = 0] of ROWS) {
  test(`readGlobalServiceSettings(): ${what}`, async (t) => {
    const settings = readGlobalServiceSettings(annotations);
    t.match(settings, { global, shared, affinity });
    t.equal(settings.warnings.length, warnings, settings.warnings.map(describeWarning).join('; '));
  });
}

test('a warning says what counts, and what was meant', async (t) => {
  const warningsOf = (annotations: Readonly<Record<string, string>>): string[] =>
    readGlobalServiceSettings(annotations).warnings.map(describeWarning);
  t.same(warningsOf({ [GLOBAL]: 'ture' }), [
    'annotation service.cilium.io/global: "ture" counts as false, expected true or false',
  ]);
  t.same(warningsOf({ 'service.cilium.io/golbal': 'true' }), [
    'annotation service.cilium.io/golbal: "true" counts as nothing, expected the name service.cilium.io/global',
  ]);
});
