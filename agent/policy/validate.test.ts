import { test } from 'tap';
import { parseClusterName } from '../../mesh/wire/ids.ts';
import { validatePolicies } from './validate.ts';
import { readManifests } from './validate-manifest.ts';

const OPTIONS = { clusterName: parseClusterName('alpha'), defaultLocalCluster: true };

/** Findings as compilers print them. */
function check(...texts: string[]): string[] {
  const files = texts.map((text, index) => ({ name: `${'abc'[index]}.yaml`, text }));
  return validatePolicies(files, OPTIONS).findings.map(
    ({ file, line, severity, object, message }) =>
      `${file}:${line} ${severity} ${object ?? '-'}: ${message}`,
  );
}

const GOOD = `apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  name: web
  namespace: demo
spec:
  podSelector: {}
  ingress:
    - from:
        - podSelector: {}
`;

test('validatePolicies() is content with what can be enforced', (t) => {
  t.same(check(GOOD), []);
  t.same(check(''), [], 'an empty file says nothing');
  t.same(check('---\n---\n'), []);
  const list = `kind: List\napiVersion: v1\nitems:\n${GOOD.replace(/^/gm, '    ')
    .replace(/^ {4}apiVersion/, '  - apiVersion')
    .trimEnd()}\n`;
  t.equal(validatePolicies([{ name: 'l.yaml', text: list }], OPTIONS).policies.length, 1);
  t.end();
});

test('validatePolicies() names file and line of everything that is wrong', (t) => {
  const cnp = (rest: string) => `apiVersion: cilium.io/v2
kind: CiliumNetworkPolicy
metadata: { name: web, namespace: demo }
spec:
  endpointSelector: {}
${rest}`;
  const cases: [string, RegExp[]][] = [
    ['a: [1\n', [/^a\.yaml:\d problem -: not YAML: /]],
    ['a: 1\na: 2\n', [/^a\.yaml:2 problem -: not YAML: Map keys must be unique/]],
    ['a: *nobody\n', [/^a\.yaml:1 problem -: not YAML: /]],
    ['- 1\n', [/^a\.yaml:1 problem -: expected a Kubernetes object/]],
    ['metadata: {}\n', [/^a\.yaml:1 problem -: kind is missing/]],
    [
      'apiVersion: v1\nkind: ConfigMap\n',
      [/^a\.yaml:2 note -: ConfigMap is no policy: passed over$/],
    ],
    [
      'apiVersion: v1\nkind: Networkpolicy\n',
      [/^a\.yaml:2 problem -: kind is Networkpolicy: expected NetworkPolicy$/],
    ],
    [
      GOOD.replace('networking.k8s.io/v1', 'extensions/v1beta1'),
      [
        /^a\.yaml:1 problem NetworkPolicy demo\/web: apiVersion is "extensions\/v1beta1": expected networking/,
      ],
    ],
    [GOOD.replace('name: web', 'name: Web'), [/^a\.yaml:4 problem .*metadata\.name is "Web"/]],
    [GOOD.replace('  name: web\n', ''), [/^a\.yaml:3 problem .*metadata\.name is missing/]],
    [GOOD.replace('demo', 'De_mo'), [/^a\.yaml:5 problem .*metadata\.namespace is "De_mo"/]],
    [
      cnp(
        '  ingress:\n    - toPorts:\n        - ports: [{ port: "80" }]\n          rules: { http: [{}] }\n',
      ),
      [
        /^a\.yaml:9 problem CiliumNetworkPolicy demo\/web: spec\.ingress\[0\]\.toPorts\[0\]\.rules /,
      ],
    ],
    [
      cnp(
        '  egress:\n    - toFQDNs:\n        - matchName: example.org\n    - toCIDR: [10.0.0.0/33]\n',
      ),
      [/^a\.yaml:7 problem .*toFQDNs/, /^a\.yaml:9 problem .*10\.0\.0\.0\/33/],
    ],
    [
      cnp('  ingress:\n    - fromCIDRSet:\n        - cidrGroupRef: office\n'),
      [/^a\.yaml:\d note .*CiliumCIDRGroup office is not in these files/],
    ],
    [
      'apiVersion: cilium.io/v2\nkind: CiliumCIDRGroup\nmetadata: { name: office }\nspec:\n  externalCIDRs:\n    - 10.0.0.0/8\n    - nonsense\n',
      [/^a\.yaml:7 problem CiliumCIDRGroup office: spec\.externalCIDRs\[1\]/],
    ],
  ];
  for (const [text, wanted] of cases) {
    const found = check(text);
    t.equal(found.length, wanted.length, `${text}\n${found.join('\n')}`);
    for (const [index, pattern] of wanted.entries()) t.match(found[index], pattern);
  }
  t.match(check(GOOD, `---\n${GOOD}`), [
    /^b\.yaml:2 problem NetworkPolicy demo\/web: is in a\.yaml:1 already/,
  ]);
  t.end();
});

test('readManifests() bounds what a stranger can make it do', (t) => {
  const bomb = `a: &a [x, x, x, x, x, x, x, x, x, x]\nb: &b [*a, *a, *a, *a, *a, *a, *a, *a, *a, *a]\nc: &c [*b, *b, *b, *b, *b, *b, *b, *b, *b, *b]\nd: [*c, *c, *c, *c, *c, *c, *c, *c, *c, *c]\n`;
  t.match(readManifests({ name: 'x', text: bomb }).findings, [{ message: /not YAML: .*alias/ }]);
  const deep = GOOD.replace('podSelector: {}', `podSelector: ${'['.repeat(200)}${']'.repeat(200)}`);
  t.match(readManifests({ name: 'x', text: deep }).findings, [{ message: /100 levels/ }]);
  t.end();
});
