import fc from 'fast-check';
import { test } from 'tap';
import { loadProtoFile } from '../../mesh/runtime/proto-file.ts';
import {
  decodeAnswerHeader,
  decodeRangeRequest,
  decodeWatchRequest,
  decodeWatchResponse,
  encodeWatchCreate,
  encodeWatchResponse,
} from './etcd-messages.ts';
import { encodeVarint, ProtobufError, varintValue } from './protobuf.ts';

interface Method {
  readonly requestSerialize: (value: object) => Buffer;
  readonly requestDeserialize: (bytes: Buffer) => object;
  readonly responseSerialize: (value: object) => Buffer;
  readonly responseDeserialize: (bytes: Buffer) => object;
}

const proto = loadProtoFile('mesh/wire/etcd.proto');
const range = (proto['etcdserverpb.KV'] as unknown as Record<string, Method>).Range!;
const watch = (proto['etcdserverpb.Watch'] as unknown as Record<string, Method>).Watch!;

const HEADER = {
  cluster_id: '17237436991929493444',
  member_id: '9372538179322589801',
  revision: '9007199254740000',
  raft_term: '5',
};
const PAIR = {
  key: Buffer.from('cilium/state/a'),
  create_revision: '3',
  mod_revision: '77',
  version: '2',
  value: Buffer.from('value'),
  lease: '7587862094770432006',
};

function everyPrefix(bytes: Buffer, decode: (bytes: Buffer) => unknown): void {
  for (let length = 0; length < bytes.length; length += 1) {
    try {
      decode(bytes.subarray(0, length));
    } catch (error) {
      if (!(error instanceof ProtobufError)) throw error;
    }
  }
}

test('numbers are written as etcd writes them and read back', async (t) => {
  fc.assert(
    fc.property(fc.maxSafeInteger(), (number) => {
      t.equal(varintValue(encodeVarint(number)), number);
    }),
    { numRuns: 300 },
  );
  t.same(encodeVarint(-1), Buffer.from('ffffffffffffffffff01', 'hex'));
});

test('decodeRangeRequest() keeps every field that etcd knows', async (t) => {
  const request = {
    key: Buffer.from('a'),
    range_end: Buffer.from('b'),
    limit: '500',
    revision: '9007199254740000',
    sort_order: 'DESCEND',
    sort_target: 'MOD',
    serializable: true,
    keys_only: true,
    count_only: true,
    min_mod_revision: '1',
    max_mod_revision: '9223372036854775807',
    min_create_revision: '3',
    max_create_revision: '4',
  };
  const bytes = range.requestSerialize(request);
  const { key, rangeEnd, canonical } = decodeRangeRequest(bytes);
  t.same([key, rangeEnd], [request.key, request.range_end]);
  t.same(canonical, bytes);
  everyPrefix(bytes, decodeRangeRequest);
});

test('decodeRangeRequest() writes anew what could be read in two ways', async (t) => {
  const shuffled = Buffer.from('1801' + '120162' + '0a0178' + '1802' + '0a0161', 'hex');
  const { key, rangeEnd, canonical } = decodeRangeRequest(shuffled);
  t.same([key.toString(), rangeEnd.toString()], ['a', 'b']);
  t.equal(canonical.toString('hex'), '0a0161' + '120162' + '1802');
  for (const bad of ['7801', '0801', '0b', '0dffffffff', '0a05', '08']) {
    t.throws(() => decodeRangeRequest(Buffer.from(bad, 'hex')), ProtobufError, bad);
  }
});

test('decodeWatchRequest() reads what clients send', async (t) => {
  const create = {
    key: Buffer.from('a'),
    range_end: Buffer.from('b'),
    start_revision: '12',
    progress_notify: true,
    filters: ['NOPUT', 'NODELETE'],
    prev_kv: true,
    watch_id: '-3',
    fragment: true,
  };
  const bytes = watch.requestSerialize({ create_request: create });
  t.same(decodeWatchRequest(bytes), {
    kind: 'create',
    key: create.key,
    rangeEnd: create.range_end,
    startRevision: 12,
    progressNotify: true,
    noPut: true,
    noDelete: true,
    prevKv: true,
    watchId: -3,
    fragment: true,
  });
  everyPrefix(bytes, decodeWatchRequest);
  const plain = watch.requestSerialize({ create_request: { key: Buffer.from('a') } });
  t.match(decodeWatchRequest(plain), { noPut: false, startRevision: 0, watchId: 0 });
  t.match(decodeWatchRequest(Buffer.from('0a022801', 'hex')), { noPut: false, noDelete: true });
  const cancel = watch.requestSerialize({ cancel_request: { watch_id: '5' } });
  t.same(decodeWatchRequest(cancel), { kind: 'cancel', watchId: 5 });
  const progress = watch.requestSerialize({ progress_request: {} });
  t.same(decodeWatchRequest(progress), { kind: 'progress' });
  t.equal(decodeWatchRequest(Buffer.alloc(0)), undefined);
  for (const start of ['-1', '9223372036854775807']) {
    const request = watch.requestSerialize({ create_request: { start_revision: start } });
    t.throws(() => decodeWatchRequest(request), ProtobufError);
  }
});

test('encodeWatchCreate() asks for a whole range in pieces, with notices', async (t) => {
  const bytes = encodeWatchCreate({
    key: Buffer.from('a'),
    rangeEnd: Buffer.from('b'),
    startRevision: 7,
    prevKv: true,
  });
  t.match(watch.requestDeserialize(bytes), {
    create_request: {
      key: Buffer.from('a'),
      range_end: Buffer.from('b'),
      start_revision: '7',
      progress_notify: true,
      prev_kv: true,
      fragment: true,
    },
  });
});

test('answers on a watch pass through without a change', async (t) => {
  const answer = {
    header: HEADER,
    watch_id: '7',
    events: [
      { type: 'PUT', kv: PAIR, prev_kv: { ...PAIR, value: Buffer.from('before') } },
      { type: 'DELETE', kv: { key: PAIR.key, mod_revision: '78' } },
    ],
  };
  const bytes = watch.responseSerialize(answer);
  const decoded = decodeWatchResponse(bytes);
  t.same(
    decoded.events.map(({ revision, isDelete }) => [revision, isDelete]),
    [
      [77, false],
      [78, true],
    ],
  );
  t.match(decoded, { watchId: 7, created: false, canceled: false, fragment: false });
  t.equal(decoded.header.revision, Number(HEADER.revision));
  const again = encodeWatchResponse({
    ...decoded,
    events: decoded.events.map(({ field }) => field),
  });
  t.same(watch.responseDeserialize(again), watch.responseDeserialize(bytes));
  everyPrefix(bytes, decodeWatchResponse);
  t.same(decodeAnswerHeader(bytes), decoded.header);
  t.equal(decodeAnswerHeader(Buffer.alloc(0)), undefined);
});

test('what says that a watch has begun or ended is read and written', async (t) => {
  const answers = [
    { header: HEADER, watch_id: '2', created: true },
    { header: HEADER, watch_id: '-1', created: true, canceled: true, cancel_reason: 'why' },
    { header: HEADER, watch_id: '3', canceled: true, compact_revision: '40' },
    { header: HEADER, watch_id: '3', fragment: true },
  ];
  for (const answer of answers) {
    const decoded = decodeWatchResponse(watch.responseSerialize(answer));
    const again = encodeWatchResponse({ ...decoded, events: [] });
    t.match(watch.responseDeserialize(again), answer);
  }
});
