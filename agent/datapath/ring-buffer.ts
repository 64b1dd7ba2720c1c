/** Reading of an eBPF ring buffer by libbpf, in the thread that calls: `poll` blocks it. */
import koffi from 'koffi';
import { DatapathError } from './datapath-error.ts';
import { check, errnoName, loadLibbpf } from './libbpf.ts';

/** What is in front of each record of a batch: its length in bytes, u32. */
export const RECORD_HEADER_SIZE = 4;

/** A ring buffer being read by this thread alone. */
export interface RingBuffer extends Disposable {
  /**
   * Waits until there are records, or the time is over, and returns them, each behind its length; no more than fit into
   * one batch, the others stay in the ring. Throws DatapathError `kernel`.
   */
  poll(timeoutMs: number): Uint8Array;
  /** Throws away what is in the ring now. */
  discard(): void;
}

/** Bytes of a batch: some 390 packets. */
const BATCH_BYTES = 64 * 1024;
/** No record of ours is larger; one of another size would be somebody else's ring. */
const RECORD_LIMIT = 4096;

/** Ends libbpf's loop over the ring after the record that made a batch full: any negative number does. */
const BATCH_IS_FULL = -11;

/** Errors of a wait that say nothing but that it ended early. */
const INTERRUPTED = 'EINTR';

/** Opens the ring of a map descriptor, which stays the caller's and must outlive this. Throws DatapathError `kernel`. */
export function openRingBuffer(fd: number): RingBuffer {
  const bpf = loadLibbpf();
  const libc = koffi.load('libc.so.6');
  const copy = libc.func('void *memcpy(void *to, const void *from, size_t size)');
  const create = bpf.func('void *ring_buffer__new(int fd, void *callback, void *ctx, void *opts)');
  const poll = bpf.func('int ring_buffer__poll(void *ring, int timeout)');
  const consume = bpf.func('int ring_buffer__consume(void *ring)');
  const free = bpf.func('void ring_buffer__free(void *ring)');

  let batch = new Uint8Array(BATCH_BYTES);
  let used = 0;
  let isDiscarding = false;
  const onRecord = (_context: unknown, data: unknown, size: bigint | number): number => {
    const length = Number(size);
    if (isDiscarding || length > RECORD_LIMIT) return 0;
    const header = new DataView(batch.buffer, used, RECORD_HEADER_SIZE);
    header.setUint32(0, length, true);
    copy(batch.subarray(used + RECORD_HEADER_SIZE), data, length);
    used += RECORD_HEADER_SIZE + length;
    return used + RECORD_HEADER_SIZE + RECORD_LIMIT > BATCH_BYTES ? BATCH_IS_FULL : 0;
  };
  const type = koffi.pointer(koffi.proto('int (void *context, void *data, size_t size)'));
  const callback = koffi.register(onRecord, type);
  const ring: unknown = create(fd, callback, null, null);
  if (ring === null) {
    const errno = errnoName(koffi.errno());
    koffi.unregister(callback);
    throw new DatapathError('kernel', `cannot read the ring buffer of events: ${errno}`, { errno });
  }
  let isOpen = true;
  return {
    poll(timeoutMs) {
      const result: number = poll(ring, timeoutMs);
      if (result !== BATCH_IS_FULL && errnoName(-result) !== INTERRUPTED) {
        check(result, 'wait for events');
      }
      const filled = batch.subarray(0, used);
      if (used > 0) batch = new Uint8Array(BATCH_BYTES);
      used = 0;
      return filled;
    },
    discard() {
      isDiscarding = true;
      try {
        check(consume(ring), 'throw away old events');
      } finally {
        isDiscarding = false;
      }
    },
    [Symbol.dispose]() {
      if (!isOpen) return;
      isOpen = false;
      free(ring);
      koffi.unregister(callback);
    },
  };
}
