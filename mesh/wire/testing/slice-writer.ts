/** Writes endpoint slices for tests: protobuf as Go writes it, in a Zstandard frame that is not compressed. */

/** What a test says of a slice; the rest has defaults. */
export interface SliceParts {
  readonly cluster?: string;
  readonly clusterId?: number;
  readonly namespace?: string;
  readonly name?: string;
  readonly labels?: Readonly<Record<string, string>>;
  readonly addressType?: string;
  readonly endpoints?: readonly Buffer[];
  readonly ports?: readonly Buffer[];
}

/** A slice in protobuf. */
export function sliceMessage(parts: SliceParts): Buffer {
  const { cluster = 'alpha', clusterId = 1, namespace = 'demo', name = 'web-1' } = parts;
  return Buffer.concat([
    field(1, cluster),
    field(2, clusterId),
    field(3, namespace),
    field(4, name),
    ...Object.entries(parts.labels ?? {}).map(([key, value]) =>
      field(5, Buffer.concat([field(1, key), field(2, value)])),
    ),
    field(7, parts.addressType ?? 'IPv4'),
    ...(parts.endpoints ?? []).map((endpoint) => field(8, endpoint)),
    ...(parts.ports ?? []).map((port) => field(9, port)),
  ]);
}

/** A field of a protobuf message: a number as a varint, anything else as bytes. */
export function field(number: number, value: number | string | Buffer): Buffer {
  if (typeof value === 'number') return Buffer.concat([varint(number * 8), varint(value)]);
  const bytes = Buffer.from(value);
  return Buffer.concat([varint(number * 8 + 2), varint(bytes.length), bytes]);
}

/** A frame of Zstandard with stored blocks, and its size. */
export function frameOf(content: Buffer): Buffer {
  const header = Buffer.alloc(13);
  header.writeUInt32LE(0xfd2f_b528, 0);
  // Content size of 8 bytes, one segment, no checksum.
  header.writeUInt8(0xe0, 4);
  header.writeBigUInt64LE(BigInt(content.length), 5);
  const pieces: Buffer[] = [header];
  const size = 100_000;
  for (let at = 0; at === 0 || at < content.length; at += size) {
    const bytes = content.subarray(at, at + size);
    const block = Buffer.alloc(3);
    block.writeUIntLE(bytes.length * 8 + (at + size >= content.length ? 1 : 0), 0, 3);
    pieces.push(block, bytes);
  }
  return Buffer.concat(pieces);
}

function varint(value: number): Buffer {
  const bytes: number[] = [];
  let rest = value;
  for (; rest >= 0x80; rest = Math.floor(rest / 0x80)) bytes.push((rest % 0x80) | 0x80);
  return Buffer.from([...bytes, rest]);
}
