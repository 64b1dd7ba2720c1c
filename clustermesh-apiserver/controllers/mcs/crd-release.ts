/** Which of two CustomResourceDefinitions of the Multi-Cluster Services API is newer. Pure. */
import { type JsonFields, listOf, recordOf, textOf, textsOf } from '../kubernetes-object.ts';

const RELEASE_LABEL = 'multicluster.x-k8s.io/release-version';
const REVISION_LABEL = 'multicluster.x-k8s.io/crd-schema-revision';

/**
 * Whether ours is to replace what is there. The labels that the API's own definitions bear decide: release, then revision. One
 * without them is replaced only if it lacks a version that ours has, and never a label that cannot be read by one that can.
 */
export function isNewerDefinition(ours: JsonFields, theirs: JsonFields): boolean {
  const labelsOf = (definition: JsonFields) => textsOf(recordOf(definition.metadata)?.labels);
  const own = labelsOf(ours);
  const other = labelsOf(theirs);
  const release = other[RELEASE_LABEL];
  if (release === undefined) {
    const versions = versionsOf(theirs);
    return versionsOf(ours).some((version) => !versions.includes(version));
  }
  const order = compareReleases(own[RELEASE_LABEL] ?? '', release);
  if (order !== 0) return order > 0;
  return Number(own[REVISION_LABEL] ?? 0) > Number(other[REVISION_LABEL] ?? 0);
}

/** Greater than 0: `a` is newer. Not a number for what is no release, which makes every comparison false. */
function compareReleases(a: string, b: string): number {
  const parts = (text: string) => /^v?(\d+)\.(\d+)\.(\d+)/.exec(text)?.slice(1).map(Number) ?? [];
  const [left, right] = [parts(a), parts(b)];
  if (left.length === 0 || right.length === 0) return Number.NaN;
  const index = left.findIndex((part, position) => part !== right[position]);
  return index === -1 ? 0 : (left[index] ?? 0) - (right[index] ?? 0);
}

function versionsOf(definition: JsonFields): readonly string[] {
  return listOf(recordOf(definition.spec)?.versions).map((version) =>
    textOf(recordOf(version), 'name'),
  );
}
