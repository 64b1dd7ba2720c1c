/** The CustomResourceDefinitions of the Multi-Cluster Services API. */
import type { DesiredObject } from '../applied-fields.ts';
import { readDefinitions as read } from '../definitions.ts';

/** Where they are, in the project. */
export const MCS_DEFINITIONS = 'clustermesh-apiserver/kubernetes/manifests/mcs-crds.yaml';

/** Reads our definitions. Throws when the file is not ours. */
export function readDefinitions(): Promise<readonly DesiredObject[]> {
  return read(MCS_DEFINITIONS);
}
