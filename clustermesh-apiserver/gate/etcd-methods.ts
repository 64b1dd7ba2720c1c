/** Every method of etcd's servers (etcd 3.4 to 3.6), so that each gets etcd's own answer when it is refused. Pure. */

/** A method by its path, and which side streams. */
export interface EtcdMethod {
  readonly path: string;
  readonly requestStream: boolean;
  readonly responseStream: boolean;
}

/** What readers need. */
export const RANGE_PATH = '/etcdserverpb.KV/Range';
export const WATCH_PATH = '/etcdserverpb.Watch/Watch';
/** Cilium's client asks for it to see whether etcd is well (`pkg/kvstore/etcd.go`, `statusChecker`). */
export const STATUS_PATH = '/etcdserverpb.Maintenance/Status';
/** What the gate answers for etcd, see `empty-lease.ts`. */
export const LEASE_GRANT_PATH = '/etcdserverpb.Lease/LeaseGrant';
export const LEASE_REVOKE_PATH = '/etcdserverpb.Lease/LeaseRevoke';
export const LEASE_KEEP_ALIVE_PATH = '/etcdserverpb.Lease/LeaseKeepAlive';

const UNARY = {
  'etcdserverpb.KV': ['Put', 'DeleteRange', 'Txn', 'Compact'],
  'etcdserverpb.Lease': ['LeaseTimeToLive', 'LeaseLeases'],
  'etcdserverpb.Cluster': [
    'MemberAdd',
    'MemberRemove',
    'MemberUpdate',
    'MemberList',
    'MemberPromote',
  ],
  'etcdserverpb.Maintenance': ['Alarm', 'Defragment', 'Hash', 'HashKV', 'MoveLeader', 'Downgrade'],
  'etcdserverpb.Auth': [
    'AuthEnable',
    'AuthDisable',
    'AuthStatus',
    'Authenticate',
    'UserAdd',
    'UserGet',
    'UserList',
    'UserDelete',
    'UserChangePassword',
    'UserGrantRole',
    'UserRevokeRole',
    'RoleAdd',
    'RoleGet',
    'RoleList',
    'RoleDelete',
    'RoleGrantPermission',
    'RoleRevokePermission',
  ],
  'v3lockpb.Lock': ['Lock', 'Unlock'],
  'v3electionpb.Election': ['Campaign', 'Proclaim', 'Leader', 'Resign'],
} as const;

/** Methods that nobody may call through the gate. */
export const FORBIDDEN_METHODS: readonly EtcdMethod[] = [
  ...Object.entries(UNARY).flatMap(([service, names]) =>
    names.map((name) => ({
      path: `/${service}/${name}`,
      requestStream: false,
      responseStream: false,
    })),
  ),
  { path: '/etcdserverpb.Maintenance/Snapshot', requestStream: false, responseStream: true },
  { path: '/v3electionpb.Election/Observe', requestStream: false, responseStream: true },
];
