/** Our definitions of the Multi-Cluster Services API beside those that its project publishes: all but the words is the same. */
import { readFile } from 'node:fs/promises';
import { test } from 'tap';
import { parse } from 'yaml';
import { readDefinitions } from '../../clustermesh-apiserver/controllers/mcs/install-crds.ts';
import { crdFiles, crdPeers } from '../peers/kube-crds.ts';
import { needPeers } from '../peers/peer-binary.ts';

const { skip } = needPeers(crdPeers, process.env);

/** A value without descriptions, and with lists whose order means nothing sorted. */
function structureOf(value: unknown): unknown {
  if (Array.isArray(value)) return value.map(structureOf);
  if (typeof value !== 'object' || value === null) return value;
  const fields = Object.entries(value).filter(
    ([name, inner]) => name !== 'description' || typeof inner !== 'string',
  );
  return Object.fromEntries(
    fields
      .sort(([a], [b]) => (a < b ? -1 : 1))
      .map(([name, inner]) => [
        name,
        name === 'required' && Array.isArray(inner) ? [...inner].sort() : structureOf(inner),
      ]),
  );
}

test('our definitions have the structure of the published ones', { skip }, async (t) => {
  const ours = await readDefinitions();
  for (const path of await crdFiles(['mcs-api'])) {
    const published = parse(await readFile(path, 'utf8')) as {
      metadata: { name: string; labels: object };
      spec: object;
    };
    const own = ours.find(({ metadata }) => metadata.name === published.metadata.name);
    t.strictSame(structureOf(own?.spec), structureOf(published.spec), published.metadata.name);
    t.strictSame(own?.metadata.labels, published.metadata.labels, 'and its labels');
  }
  t.equal(ours.length, 2);
});
