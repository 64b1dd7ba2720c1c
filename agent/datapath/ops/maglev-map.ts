/** Maglev tables in the kernel, a block of entries at a time. */
import { MAGLEV_BLOCK, MAGLEV_BLOCK_ENTRIES, MAGLEV_KEY } from '../../../mesh/wire/maps.ts';
import type { RowCodec } from '../map.ts';

export interface BlockKey {
  readonly serviceId: number;
  readonly block: number;
}

export interface BlockRow extends BlockKey {
  /** Ids of backends; behind the end of the table the block is filled with zeroes. */
  readonly backendIds: Uint32Array;
}

export const blockCodec: RowCodec<BlockRow, BlockKey> = {
  keySize: MAGLEV_KEY.size,
  valueSize: MAGLEV_BLOCK.size,
  writeKey(view, offset, { serviceId, block }) {
    view.setUint32(offset + MAGLEV_KEY.fields.serviceId, serviceId, true);
    view.setUint32(offset + MAGLEV_KEY.fields.block, block, true);
  },
  writeValue(view, offset, { backendIds }) {
    backendIds.forEach((id, index) => {
      view.setUint32(offset + 4 * index, id, true);
    });
  },
  readRow: (keys, keyOffset, values, valueOffset) => ({
    serviceId: keys.getUint32(keyOffset + MAGLEV_KEY.fields.serviceId, true),
    block: keys.getUint32(keyOffset + MAGLEV_KEY.fields.block, true),
    backendIds: Uint32Array.from({ length: MAGLEV_BLOCK_ENTRIES }, (_, index) =>
      values.getUint32(valueOffset + 4 * index, true),
    ),
  }),
  describe: ({ serviceId, block }) => `block ${block} of the Maglev table of service ${serviceId}`,
};

/** Number of blocks of a table. */
export function blocksOf(tableSize: number): number {
  return Math.ceil(tableSize / MAGLEV_BLOCK_ENTRIES);
}

/** Keys of the blocks from `first` on, up to the end of a table. */
export function blockKeys(serviceId: number, first: number, tableSize: number): BlockKey[] {
  const keys: BlockKey[] = [];
  for (let block = first; block < blocksOf(tableSize); block += 1) keys.push({ serviceId, block });
  return keys;
}

/** Blocks of `table` (backend ids) that are not the same in `before`: all of them without one. */
export function changedBlocks(
  serviceId: number,
  table: Uint32Array,
  before: Uint32Array | undefined,
): BlockRow[] {
  const rows: BlockRow[] = [];
  for (let block = 0; block < blocksOf(table.length); block += 1) {
    const start = block * MAGLEV_BLOCK_ENTRIES;
    const backendIds = table.subarray(start, start + MAGLEV_BLOCK_ENTRIES);
    if (before !== undefined && backendIds.every((id, index) => id === before[start + index])) {
      continue;
    }
    rows.push({ serviceId, block, backendIds });
  }
  return rows;
}
