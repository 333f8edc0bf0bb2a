# What a service that talks to the network and keeps a state directory can do without, for every unit
# of ours. systemd.exec(5) has the meaning of each; `systemd-analyze security` the sum.
{
  AmbientCapabilities = "";
  CapabilityBoundingSet = "";
  NoNewPrivileges = true;
  SecureBits = [
    "noroot-locked"
    "no-setuid-fixup-locked"
  ];

  ProtectSystem = "strict";
  ProtectHome = true;
  PrivateTmp = true;
  PrivateDevices = true;
  DevicePolicy = "closed";
  PrivateUsers = true;
  PrivateMounts = true;
  PrivateIPC = true;
  ProtectHostname = true;
  ProtectClock = true;
  ProtectKernelLogs = true;
  ProtectKernelModules = true;
  ProtectKernelTunables = true;
  ProtectControlGroups = "strict";
  ProtectProc = "invisible";
  ProcSubset = "pid";
  InaccessiblePaths = [ "-/boot" ];
  UMask = "0077";
  RemoveIPC = true;

  RestrictAddressFamilies = [
    "AF_INET"
    "AF_INET6"
    "AF_UNIX"
  ];
  RestrictNamespaces = true;
  RestrictRealtime = true;
  RestrictSUIDSGID = true;
  LockPersonality = true;
  MemoryDenyWriteExecute = true;
  KeyringMode = "private";
  LimitCORE = 0;

  SystemCallArchitectures = "native";
  SystemCallErrorNumber = "EPERM";
  SystemCallFilter = [
    "@system-service"
    "~@privileged @resources @keyring @aio"
  ];
}
