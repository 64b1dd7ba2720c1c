import { test } from 'tap';
import { readGlobalServiceSettings } from './annotations.ts';

const cases: readonly {
  readonly name: string;
  readonly annotations: Record<string, string>;
  readonly expected: readonly [
    global: boolean,
    shared: boolean,
    affinity: string,
    warnings: number,
  ];
}[] = [
  { name: 'nothing', annotations: {}, expected: [false, false, 'none', 0] },
  {
    name: 'global alone shares',
    annotations: { 'service.cilium.io/global': 'true' },
    expected: [true, true, 'none', 0],
  },
  {
    name: 'the old name',
    annotations: { 'io.cilium/global-service': 'true' },
    expected: [true, true, 'none', 0],
  },
  {
    name: 'the new name wins over the old',
    annotations: { 'service.cilium.io/global': 'false', 'io.cilium/global-service': 'true' },
    expected: [false, false, 'none', 0],
  },
  {
    name: 'any case',
    annotations: { 'service.cilium.io/global': 'TRUE' },
    expected: [true, true, 'none', 0],
  },
  {
    name: 'a word that is none',
    annotations: { 'service.cilium.io/global': 'yes' },
    expected: [false, false, 'none', 1],
  },
  {
    name: 'not shared',
    annotations: { 'service.cilium.io/global': 'true', 'service.cilium.io/shared': 'false' },
    expected: [true, false, 'none', 0],
  },
  {
    name: 'shared with a word that is none is not shared',
    annotations: { 'service.cilium.io/global': 'true', 'io.cilium/shared-service': 'no' },
    expected: [true, false, 'none', 1],
  },
  {
    name: 'shared without global',
    annotations: { 'service.cilium.io/shared': 'true' },
    expected: [false, false, 'none', 0],
  },
  {
    name: 'affinity local',
    annotations: { 'service.cilium.io/global': 'true', 'service.cilium.io/affinity': 'Local' },
    expected: [true, true, 'local', 0],
  },
  {
    name: 'affinity remote by its old name',
    annotations: { 'service.cilium.io/global': 'true', 'io.cilium/service-affinity': 'remote' },
    expected: [true, true, 'remote', 0],
  },
  {
    name: 'affinity none, the documented value',
    annotations: { 'service.cilium.io/global': 'true', 'service.cilium.io/affinity': 'none' },
    expected: [true, true, 'none', 0],
  },
  {
    name: 'an unknown affinity is none and warned about',
    annotations: { 'service.cilium.io/global': 'true', 'service.cilium.io/affinity': 'nearest' },
    expected: [true, true, 'none', 1],
  },
  {
    name: 'affinity counts only for a global service',
    annotations: { 'service.cilium.io/affinity': 'local' },
    expected: [false, false, 'none', 0],
  },
];

for (const { name, annotations, expected } of cases) {
  test(`readGlobalServiceSettings(): ${name}`, async (t) => {
    const settings = readGlobalServiceSettings(annotations);
    t.same(
      [settings.global, settings.shared, settings.affinity, settings.warnings.length],
      expected,
    );
  });
}
