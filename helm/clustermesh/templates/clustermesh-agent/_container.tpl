{{/* What must be the same for the agent and for what takes its traces away. */}}
{{- define "clustermesh.agent.security" }}
securityContext:
  runAsUser: 0
  readOnlyRootFilesystem: true
  {{- if .Values.agent.privileged }}
  privileged: true
  {{- else }}
  privileged: false
  capabilities:
    drop: [ALL]
    {{- /* Who else's process it is does not matter then. */}}
    add: {{ toJson (ternary (append .Values.agent.capabilities.add "SYS_PTRACE" | uniq) .Values.agent.capabilities.add .Values.agent.hostPID) }}
  {{- end }}
  # It enters other pods' network namespaces and attaches to cgroups, which SELinux lets this type do.
  seLinuxOptions: {level: s0, type: spc_t}
{{- end }}

{{- define "clustermesh.agent.mounts" }}
- {name: run, mountPath: {{ .Values.agent.hostPaths.run }}}
# What is mounted there on the host later is seen here, too.
- {name: bpf, mountPath: /sys/fs/bpf, mountPropagation: HostToContainer}
- {name: netns, mountPath: /run/netns, mountPropagation: HostToContainer}
- {name: cni-conf, mountPath: /host/cni/net.d}
- {name: cni-bin, mountPath: /host/cni/bin}
- {name: tmp, mountPath: /tmp}
{{- end }}
