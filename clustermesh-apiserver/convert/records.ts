/** What a cluster is converted to: records, each of which becomes one key or two in etcd. */
import type { Labels } from '../../mesh/wire/identity.ts';
import type { NumericIdentity } from '../../mesh/wire/ids.ts';
import type { IpAddress } from '../../mesh/wire/ip.ts';
import type { IpIdentity, NamedPort } from '../../mesh/wire/ip-identity.ts';
import type { LocalPolicy } from '../../mesh/wire/local-policy.ts';
import type { Node } from '../../mesh/wire/node.ts';
import type { ServiceExport } from '../../mesh/wire/service-export.ts';
import type { AnnotatedObject, AnnotationWarning } from './annotation-warning.ts';
import type { ConvertedService } from './service.ts';

/** An address to publish; its identity is still a set of labels, because only etcd can give it a number. */
export interface EndpointRecord {
  readonly address: IpAddress;
  readonly hostIp: IpAddress | null;
  /** Its namespace is not global: only the cluster's own agents may know of it. */
  readonly isLocal: boolean;
  /** The same object for the same labels. */
  readonly labels: Labels;
  readonly namespace: string;
  readonly podName: string;
  readonly serviceAccount: string;
  readonly namedPorts: readonly NamedPort[] | undefined;
}

/** A record to publish or, with `value` undefined, to withdraw. */
export type RecordChange =
  | { readonly kind: 'node'; readonly name: string; readonly value: Node | undefined }
  | {
      readonly kind: 'endpoint';
      readonly address: IpAddress;
      readonly value: EndpointRecord | undefined;
    }
  /** An address whose identity has a number already. */
  | { readonly kind: 'ip'; readonly address: IpAddress; readonly value: IpIdentity | undefined }
  /** Labels of a number that somebody else has allocated. */
  | {
      readonly kind: 'identity';
      readonly id: NumericIdentity;
      readonly value: Labels | undefined;
    }
  | {
      readonly kind: 'service';
      readonly namespace: string;
      readonly name: string;
      readonly value: ConvertedService | undefined;
    }
  | {
      readonly kind: 'service-export';
      readonly namespace: string;
      readonly name: string;
      readonly value: ServiceExport | undefined;
    }
  | {
      readonly kind: 'policy';
      readonly policyKind: LocalPolicy['kind'];
      readonly namespace: string;
      readonly name: string;
      readonly value: LocalPolicy | undefined;
    }
  /** Everything that is wrong with an object's annotations now; undefined when nothing is any more. */
  | {
      readonly kind: 'warnings';
      readonly object: AnnotatedObject;
      readonly value: readonly AnnotationWarning[] | undefined;
    };
