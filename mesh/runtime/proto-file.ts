import { loadSync, type PackageDefinition } from '@grpc/proto-loader';
import { projectPath } from './project-path.ts';

/** What was loaded: each connection asks, and reading a file and making its coders takes milliseconds. */
const loaded = new Map<string, PackageDefinition>();

/**
 * Loads the services of a protocol file of this package, for instance `mesh/wire/etcd.proto`, once for the process. Field names
 * stay as written, 64-bit numbers are decimal strings, bytes are Buffers, enum values their names, absent fields absent.
 */
export function loadProtoFile(relativePath: string): PackageDefinition {
  const known = loaded.get(relativePath);
  if (known !== undefined) return known;
  const definition = loadSync(projectPath(relativePath), {
    keepCase: true,
    longs: String,
    enums: String,
    oneofs: true,
  });
  loaded.set(relativePath, definition);
  return definition;
}
