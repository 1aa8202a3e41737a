{{- define "kerbside.labels" -}}
app.kubernetes.io/part-of: kerbside
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- /* A program's image: dict "root" $ "program" NAME. */ -}}
{{- define "kerbside.image" -}}
{{- printf "%s/%s:%s" .root.Values.image.registry .program (default .root.Chart.AppVersion .root.Values.image.tag) | quote -}}
{{- end -}}

{{- define "kerbside.adapterUser" -}}
{{- printf "system:serviceaccount:%s:kerbside-virtual-kubelet" .Release.Namespace -}}
{{- end -}}

{{- define "kerbside.operatorUser" -}}
{{- printf "system:serviceaccount:%s:kerbside-operator" .Release.Namespace -}}
{{- end -}}

{{- /* What every Pod of the chart has in common. */ -}}
{{- define "kerbside.pod" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . }}
{{- end }}
{{- end }}
{{- if .Values.hostNetwork }}
hostNetwork: true
dnsPolicy: ClusterFirstWithHostNet
{{- end }}
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  fsGroup: 65532
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "kerbside.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end -}}

{{- /* Where the API server is, for Pods that cannot use its Service. */ -}}
{{- define "kerbside.apiServerEnv" -}}
{{- with .Values.apiServer.host }}
- name: KUBERNETES_SERVICE_HOST
  value: {{ . | quote }}
{{- end }}
{{- with .Values.apiServer.port }}
- name: KUBERNETES_SERVICE_PORT
  value: {{ . | quote }}
{{- end }}
{{- end -}}

{{- define "kerbside.env" -}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
- name: POD_IP
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
{{- include "kerbside.apiServerEnv" . }}
{{- end -}}

{{- define "kerbside.envFrom" -}}
{{- with .Values.store.credentialsSecret }}
envFrom:
- secretRef: {name: {{ . }}}
{{- end }}
{{- end -}}

{{- define "kerbside.hasFileStore" -}}
{{- if hasPrefix "file://" .Values.store.url }}true{{ end -}}
{{- end -}}

{{- define "kerbside.storeMount" -}}
{{- if include "kerbside.hasFileStore" . }}
- {name: store, mountPath: {{ trimPrefix "file://" .Values.store.url }}}
{{- end }}
{{- end -}}

{{- define "kerbside.storeVolume" -}}
{{- if include "kerbside.hasFileStore" . }}
- name: store
  persistentVolumeClaim: {claimName: {{ default "kerbside-store" .Values.store.existingClaim }}}
{{- end }}
{{- end -}}

{{- /* A volume that one node mounts at a time is shared by living on that node. */ -}}
{{- define "kerbside.storeAffinity" -}}
{{- if and (include "kerbside.hasFileStore" .) (eq .Values.store.accessMode "ReadWriteOnce") }}
affinity:
  podAffinity:
    requiredDuringSchedulingIgnoredDuringExecution:
    - topologyKey: kubernetes.io/hostname
      labelSelector:
        matchLabels: {kerbside.dev/mounts-store: "true"}
{{- end }}
{{- end -}}

{{- /* Two Pods of one program cannot have the same ports of one node. */ -}}
{{- define "kerbside.strategy" -}}
{{- if .Values.hostNetwork }}
strategy: {type: Recreate}
{{- else }}
strategy:
  type: RollingUpdate
  rollingUpdate: {maxSurge: 1, maxUnavailable: 0}
{{- end }}
{{- end -}}

{{- define "kerbside.demoLink" -}}
{{- default (printf "https://kerbside-link.%s.svc:%d" .Release.Namespace (int .Values.adapter.linkPort)) .Values.demoFleet.link -}}
{{- end -}}

{{- /* The version under which the cluster serves MutatingAdmissionPolicy; empty where it serves none (1.35 does so only if asked). */ -}}
{{- define "kerbside.mutatingPolicyVersion" -}}
{{- if semverCompare ">=1.36.0-0" .Capabilities.KubeVersion.Version -}}
v1
{{- else if .Capabilities.APIVersions.Has "admissionregistration.k8s.io/v1beta1/MutatingAdmissionPolicy" -}}
v1beta1
{{- end -}}
{{- end -}}

{{- define "kerbside.uninstallHook" -}}
helm.sh/hook: pre-delete
helm.sh/hook-delete-policy: before-hook-creation,hook-succeeded
{{- end -}}

{{- /* Values that each are valid and together cannot work. */ -}}
{{- define "kerbside.check" -}}
{{- if and .Values.hostNetwork (eq (int .Values.adapter.kubeletPort) 10250) }}
{{- fail "hostNetwork: the node's own kubelet has port 10250; set adapter.kubeletPort to another, such as 10350" }}
{{- end }}
{{- if and .Values.hostNetwork (gt (int .Values.adapter.replicas) 1) (not .Values.adapter.nodeSelector) (eq .Values.store.accessMode "ReadWriteOnce") (include "kerbside.hasFileStore" .) }}
{{- fail "hostNetwork: several adapters need a node each, but a ReadWriteOnce store keeps them on one; use an s3:// store or ReadWriteMany" }}
{{- end }}
{{- if and (not (include "kerbside.hasFileStore" .)) (or .Values.store.existingClaim) }}
{{- fail "store.existingClaim is for a file:// store; store.url is not one" }}
{{- end }}
{{- if not (or (include "kerbside.hasFileStore" .) .Values.store.credentialsSecret) }}
{{- fail "store.credentialsSecret: an s3:// store needs the name of a Secret with AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_REGION" }}
{{- end }}
{{- end -}}
