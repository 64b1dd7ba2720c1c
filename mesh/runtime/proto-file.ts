import { loadSync, type PackageDefinition } from '@grpc/proto-loader';
import { projectPath } from './project-path.ts';

/**
 * Loads the services of a protocol file of this package, for instance `mesh/wire/etcd.proto`. Field names stay as
 * written, 64-bit numbers are decimal strings, bytes are Buffers, enum values their names, absent fields absent.
 */
export function loadProtoFile(relativePath: string): PackageDefinition {
  return loadSync(projectPath(relativePath), {
    keepCase: true,
    longs: String,
    enums: String,
    oneofs: true,
  });
}
