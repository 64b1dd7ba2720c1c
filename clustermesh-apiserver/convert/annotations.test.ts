import { test } from 'tap';
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
];

for (const [what, annotations, [global, shared, affinity], warnings = 0] of ROWS) {
  test(`readGlobalServiceSettings(): ${what}`, async (t) => {
    const settings = readGlobalServiceSettings(annotations);
    t.match(settings, { global, shared, affinity });
    t.equal(settings.warnings.length, warnings, settings.warnings.join('; '));
  });
}
